"""Judging asks each pair in both orders, keeps what it has, and tells no key to anybody else."""

import json
from pathlib import Path

import pytest
from bitsmith_client import judging
from bitsmith_client.judging import BadPrompts, Judging, OtherRun, endpoint, read_prompts, winner_of

from tests.client.conftest import Request, Serve

PROMPTS = read_prompts('{"prompt": "one"}\n{"prompt": "two"}\n')


def answering(text: str) -> judging.Ask:
    return lambda conversation: f"{text} to {conversation[-1]['content']}"


def prefers(word: str) -> judging.Ask:
    """A judge for whom the answer with this word is better, wherever it stands."""

    def ask(conversation: judging.Conversation) -> str:
        first = conversation[0]["content"].split("<answer A>")[1].split("</answer A>")[0]
        return f"Let me see.\nVERDICT: {'A' if word in first else 'B'}"

    return ask


def unasked(_: judging.Conversation) -> str:
    pytest.fail("everything was there already")


def judged(file: Path, judge: judging.Ask, *, judge_name: str = "judge") -> Judging:
    run = Judging(file, prompts=PROMPTS, contestants=["good", "bad"], judge=judge_name)
    for _ in run.run({"good": answering("wise words"), "bad": answering("noise")}, judge):
        pass
    return run


def test_each_pair_is_judged_in_both_orders(tmp_path: Path) -> None:
    request = judged(tmp_path / "run.jsonl", prefers("wise")).request("title")
    assert [(v["prompt"], v["first"], v["second"], v["winner"]) for v in request["verdicts"]] == [
        (0, 0, 1, "first"), (0, 1, 0, "second"), (1, 0, 1, "first"), (1, 1, 0, "second"),
    ]  # fmt: skip
    assert (request["title"], request["judge"], request["contestants"]) == ("title", "judge", ["good", "bad"])


def test_what_is_there_is_not_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    whole = judged(file, prefers("wise")).request("t")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:6]) + lines[6][:9])  # torn off in the middle of a line

    asked: list[str] = []

    def judge(conversation: judging.Conversation) -> str:
        asked.append(conversation[0]["content"])
        return prefers("wise")(conversation)

    run = judged(file, judge)
    assert run.request("t") == whole
    assert len(asked) == 2
    assert judged(file, unasked).request("t") == whole


def test_a_file_of_another_run_is_refused(tmp_path: Path) -> None:
    judged(tmp_path / "run.jsonl", prefers("wise"))
    with pytest.raises(OtherRun, match="name another file"):
        judged(tmp_path / "run.jsonl", prefers("wise"), judge_name="another")


def test_a_judge_that_does_not_decide_is_asked_twice_and_then_left_out(tmp_path: Path) -> None:
    asked: list[object] = []

    def hesitate(conversation: judging.Conversation) -> str:
        asked.append(conversation)
        return "Hard to say."

    run = judged(tmp_path / "run.jsonl", hesitate)
    assert (len(asked), run.unreadable, run.request("t")["verdicts"]) == (8, 4, [])


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ("VERDICT: A", "first"),
        ("verdict: **B**", "second"),
        ("VERDICT: A would be wrong.\nVERDICT: TIE", "tie"),
        ("A is better", None),
        ("VERDICT: Apples", None),
    ],
)
def test_the_last_verdict_counts(text: str, winner: str | None) -> None:
    assert winner_of(text) == winner


def test_prompts_are_questions_without_their_answers() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert read_prompts(json.dumps({"messages": turns})) == [turns[:1]]
    assert read_prompts('{"prompt": "q", "completion": "a"}') == [turns[:1]]
    assert len(read_prompts('{"prompt": "1"}\n\n{"prompt": "2"}', limit=1)) == 1
    for text, words in (
        ("", "no prompt"),
        ("{}", "line 1"),
        ('{"prompt": "x"}\n[', "line 2"),
        ('{"messages": []}', "1"),
    ):
        with pytest.raises(BadPrompts, match=words):
            read_prompts(text)


def test_an_endpoint_is_any_that_speaks_openais_dialect(serve: Serve) -> None:
    def answer(request: Request, _: int) -> None:
        request.answer_json(200, {"choices": [{"message": {"role": "assistant", "content": "four"}}]})

    server = serve(answer)
    ask = endpoint(f"{server.url}/v1", "some-judge", "key-of-the-judge", temperature=0)
    assert ask([{"role": "user", "content": "2 + 2?"}]) == "four"
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["Authorization"] == "Bearer key-of-the-judge"
