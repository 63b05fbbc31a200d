"""What a benchmark promises: lm_eval's own numbers, from a file, without a network; broken packs named by line."""

import json
import math
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import lm_eval.evaluator
import lm_eval.tasks
import pytest
from bitsmith_core.bundle import BenchmarkItems, Evals, ScoreDetails
from bitsmith_core.spec import BenchmarkTask, Evaluation, TaskName
from bitsmith_engine.calibrate.start import round_base
from bitsmith_engine.data.examples import load_examples
from bitsmith_engine.errors import BadData, BadSpec, Diverged, MissingPackage, Stopped
from bitsmith_engine.evaluate.benchmarks import open_benchmarks, run_benchmark
from bitsmith_engine.evaluate.continuations import Continuation, Likelihood, likelihoods
from bitsmith_engine.evaluate.harness import FEWSHOT_SEED, EngineLM
from bitsmith_engine.evaluate.packs import DOCUMENTS, read_benchmarks, read_pack
from bitsmith_engine.evaluate.plan import make_plan
from bitsmith_engine.evaluate.suite import evaluate
from bitsmith_engine.models.opening import Base, load_float, open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.ports import Silent
from bitsmith_engine.runtime import choose_runtime
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from reference.likelihood import answer_log_likelihood

PACKS = Path(__file__).parent / "packs"
RUNTIME = choose_runtime("cpu")
TASKS: tuple[TaskName, ...] = get_args(TaskName)


def pack_of(task: TaskName) -> Path:
    shared = {"arc_easy": "arc", "arc_challenge": "arc", "anli_r1": "anli", "anli_r2": "anli", "anli_r3": "anli"}
    return PACKS / f"{shared.get(task, task)}.jsonl"


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    """INPUTS/packs as the worker lays it out."""
    folder = tmp_path / "packs"
    folder.mkdir()
    return folder


def put(packs: Path, number: int, lines: Sequence[str]) -> str:
    file_id = "file-" + str(number).zfill(26)
    (packs / f"{file_id}.jsonl").write_text("".join(line.rstrip("\n") + "\n" for line in lines))
    return file_id


def lines_of(task: TaskName) -> list[str]:
    return pack_of(task).read_text().splitlines()


def order(task: TaskName, packs: Path, lines: Sequence[str] | None = None, **settings: Any) -> BenchmarkTask:
    file = put(packs, 1, lines_of(task) if lines is None else lines)
    return BenchmarkTask.model_validate({"task": task, "file": file, **settings})


@pytest.fixture(scope="module")
def base(toy_inputs: Path) -> Base:
    return open_base(toy_inputs / "model")


@pytest.fixture(scope="module")
def model(base: Base) -> Any:
    """A quantized one: its layers compute on codes."""
    return load_quantized(base, round_base(base, 4, RUNTIME), RUNTIME)


@pytest.fixture(scope="module")
def harness_model(model: Any, base: Base) -> HFLM:
    return HFLM(pretrained=model, tokenizer=base.tokenizer, batch_size=3, device="cpu")


def expected_results(lm: HFLM, task: str, splits: dict[str, Path], cache: Path, num_fewshot: int) -> dict[str, Any]:
    """lm_eval alone: its task, its loader of JSON files, its few-shot sampler, its evaluator and its model class."""
    manager = TaskManager(include_defaults=False, include_path=Path(lm_eval.tasks.__file__).parent / folder_of(task))
    changes: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {name: str(file) for name, file in splits.items()}, "cache_dir": str(cache)},
    }
    if len(splits) == 1:
        (asked,) = splits
        changes |= {"training_split": None, "validation_split": None, "test_split": asked, "fewshot_split": asked}
    loaded = manager.load({"group": "ours", "task": [{"task": task, **changes}]})
    loaded["groups"] = {}
    loaded["tasks"][task].set_config("num_fewshot", num_fewshot)
    loaded["tasks"][task].set_fewshot_seed(FEWSHOT_SEED)
    results: dict[str, Any] = lm_eval.evaluator.evaluate(lm=lm, task_dict=loaded)
    return results


def folder_of(task: str) -> str:
    if task in ("boolq", "wic"):
        return f"super_glue/{task}"
    return "mmlu/default" if task.startswith("mmlu") else task.split("_")[0]


def assert_same(scores: Sequence[Any], items: BenchmarkItems, results: dict[str, Any], task: str) -> None:
    row = results["results"][task]
    assert [score.metric for score in scores] == [name.split(",")[0] for name in row if name in METRICS]
    for score in scores:
        assert score.value == row[f"{score.metric},none"]
        assert score.stderr == row[f"{score.metric}_stderr,none"]
        assert score.n == row["sample_len"] == len(items.answers)
    for answer, sample in zip(items.answers, results["samples"][task], strict=True):
        assert answer.doc == sample["doc_id"]
        assert answer.scores == pytest.approx([found[0] for found in sample["filtered_resps"]], abs=1e-3)
        assert answer.correct == {metric: bool(sample[metric]) for metric in sample["metrics"]}


METRICS = {"acc,none", "acc_norm,none"}


@pytest.mark.parametrize("task", [task for task in TASKS if task != "mmlu"])
def test_every_task_scores_as_lm_eval_scores_it(
    task: TaskName, model: Any, base: Base, harness_model: HFLM, packs: Path, tmp_path: Path
) -> None:
    (benchmark,) = read_benchmarks([order(task, packs)], packs)
    scores, items = run_benchmark(benchmark, model, base.tokenizer, "quantized", RUNTIME)
    results = expected_results(harness_model, task, {"test": pack_of(task)}, tmp_path / "cache", 0)
    assert_same(scores, items, results, task)


@pytest.mark.parametrize("task", ["boolq", "winogrande", "hellaswag"])
def test_examples_from_the_pack_are_the_ones_lm_eval_shows(
    task: TaskName, model: Any, base: Base, harness_model: HFLM, packs: Path, tmp_path: Path
) -> None:
    (benchmark,) = read_benchmarks([order(task, packs, num_fewshot=1)], packs)
    scores, items = run_benchmark(benchmark, model, base.tokenizer, "quantized", RUNTIME)
    results = expected_results(harness_model, task, {"test": pack_of(task)}, tmp_path / "cache", 1)
    assert_same(scores, items, results, task)
    assert {score.task for score in scores} == {f"{task} 1-shot"}


@pytest.mark.parametrize(("task", "asked", "shown"), [("boolq", "validation", "train"), ("arc_easy", "test", "train")])
def test_examples_from_a_file_are_drawn_as_from_the_hubs_training_split(
    task: TaskName, asked: str, shown: str, model: Any, base: Base, harness_model: HFLM, packs: Path, tmp_path: Path
) -> None:
    lines = lines_of(task)
    shots = put(packs, 2, lines[1:])
    spec = order(task, packs, lines[:2], fewshot_file=shots, num_fewshot=2)
    (benchmark,) = read_benchmarks([spec], packs)
    scores, items = run_benchmark(benchmark, model, base.tokenizer, "quantized", RUNTIME)
    splits = {asked: packs / f"{spec.file}.jsonl", shown: packs / f"{shots}.jsonl"}
    assert_same(scores, items, expected_results(harness_model, task, splits, tmp_path / "cache", 2), task)


def test_mmlu_is_the_mean_over_documents_of_all_subjects(
    model: Any, base: Base, harness_model: HFLM, packs: Path, tmp_path: Path
) -> None:
    (benchmark,) = read_benchmarks([order("mmlu", packs, num_fewshot=1)], packs)
    (score,), items = run_benchmark(benchmark, model, base.tokenizer, "quantized", RUNTIME)

    subjects = ["anatomy", "elementary_mathematics", "jurisprudence"]
    right, variance = 0.0, 0.0
    for subject in subjects:
        file = tmp_path / f"{subject}.jsonl"
        file.write_text("".join(f"{line}\n" for line in lines_of("mmlu") if json.loads(line)["subject"] == subject))
        alone = expected_results(harness_model, f"mmlu_{subject}", {"test": file}, tmp_path / "cache", 1)
        row = alone["results"][f"mmlu_{subject}"]
        right += row["acc,none"] * row["sample_len"]
        n = row["sample_len"]
        variance += (n - 1) * row["acc_stderr,none"] ** 2 * n
        mine = [answer for answer in items.answers if answer.task == f"mmlu_{subject}"]
        for answer, sample in zip(mine, alone["samples"][f"mmlu_{subject}"], strict=True):
            assert answer.scores == pytest.approx([found[0] for found in sample["filtered_resps"]], abs=1e-3)
    assert (score.task, score.metric, score.n) == ("mmlu 1-shot", "acc", 8)
    assert score.value == pytest.approx(right / 8)
    # lm_eval pools the subjects' variances.
    assert score.stderr == pytest.approx(math.sqrt(variance / (8 - 3) / 8))


def test_nothing_is_asked_of_the_network(model: Any, base: Base, packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (benchmark,) = open_benchmarks([order("hellaswag", packs)], packs)
    scores, _ = run_benchmark(benchmark, model, base.tokenizer, "quantized", RUNTIME)
    assert {score.n for score in scores} == {3}


def test_the_limit_takes_the_first_documents_of_the_file(model: Any, base: Base, packs: Path) -> None:
    (benchmark,) = read_benchmarks([order("mmlu", packs, limit=4)], packs)
    (score,), items = run_benchmark(benchmark, model, base.tokenizer, "quantized", RUNTIME)
    assert score.n == 4
    assert [(answer.task, answer.doc) for answer in items.answers] == [
        ("mmlu_anatomy", 0),
        ("mmlu_anatomy", 1),
        ("mmlu_elementary_mathematics", 0),
        ("mmlu_elementary_mathematics", 1),
    ]


def test_keys_are_equal_exactly_when_lm_eval_asked_the_same(model: Any, base: Base, packs: Path) -> None:
    def key(lines: Sequence[str], **settings: Any) -> str:
        (benchmark,) = read_benchmarks([order("piqa", packs, lines, **settings)], packs)
        return run_benchmark(benchmark, model, base.tokenizer, "quantized", RUNTIME)[1].comparable_key

    lines = lines_of("piqa")
    first = key(lines)
    with_a_column_more = [json.dumps({**json.loads(line), "source": "hand"}) for line in lines]
    assert key(with_a_column_more) == first
    assert key([*lines, lines[0]], limit=3) == first
    assert key(lines, limit=2) != first
    assert key(lines, num_fewshot=1) != first
    assert key([lines[0].replace("a towel", "a cloth"), *lines[1:]]) != first
    assert key([lines[0].replace('"label": 0', '"label": 1'), *lines[1:]]) != first


def test_a_text_is_as_likely_as_lm_eval_says_in_windows_and_alone(model: Any, base: Base, harness_model: HFLM) -> None:
    ours = EngineLM(model, base.tokenizer, RUNTIME)
    texts = ["What is longer than the model can read? " * 20, "short", "<s>begun already"]
    rolling = [Instance("loglikelihood_rolling", {}, (text,), 0, ("t", 0, 1)) for text in texts]
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(harness_model.loglikelihood_rolling(rolling), abs=1e-2)

    pairs = [("", "no context"), (texts[0], " cut at its beginning"), ("space moves ", "over"), ("one", "!")]
    single = [Instance("loglikelihood", {}, pair, 0, ("t", 0, 1)) for pair in pairs]
    found, expected = ours.loglikelihood(single), harness_model.loglikelihood(single)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_rows_that_are_shared_score_as_if_they_were_alone(model: Any) -> None:
    contexts = [(5, 6, 7), (5, 6, 7), (5, 6, 7, 8), (9,)]
    targets = [(8,), (9,), (9,), (10, 11)]
    wanted = [Continuation(*pair) for pair in zip(contexts, targets, strict=True)]
    found: dict[int, Likelihood] = {}
    for part in likelihoods(model, wanted, RUNTIME, max_length=64):
        found |= part
    for index, continuation in enumerate(wanted):
        expected = answer_log_likelihood(model, continuation.context, continuation.target)
        assert found[index].log_likelihood == pytest.approx(expected, abs=1e-4)


def test_the_likeliest_continuation_is_called_greedy(model: Any) -> None:
    wanted = [Continuation((5, 6), (token,)) for token in range(259)]
    found: dict[int, Likelihood] = {}
    for part in likelihoods(model, wanted, RUNTIME, max_length=64):
        found |= part
    best = max(found, key=lambda index: found[index].log_likelihood)
    assert [index for index, item in found.items() if item.is_greedy] == [best]


def test_an_answer_without_tokens_is_refused_and_a_broken_model_named(base: Base) -> None:
    broken = load_float(base, RUNTIME)
    broken.model.norm.weight.data.fill_(math.nan)
    with pytest.raises(Diverged, match="no finite likelihood"):
        list(likelihoods(broken, [Continuation((1,), (2,))], RUNTIME, max_length=64))
    with pytest.raises(BadData, match="an answer of 0 tokens"):
        list(likelihoods(broken, [Continuation((1,), ())], RUNTIME, max_length=64))


def test_generated_text_is_refused_in_words(model: Any, base: Base) -> None:
    request = Instance("generate_until", {}, ("Hello", {}), 0, ("gsm8k", 0, 1))
    with pytest.raises(BadSpec, match="gsm8k wants generated text"):
        EngineLM(model, base.tokenizer, RUNTIME).generate_until([request])


class Ears:
    """An observer that stops the run after so many words."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.heard: list[tuple[int, int]] = []
        self._stop_after = stop_after

    def progress(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        self.heard.append((done, total))
        if len(self.heard) == self._stop_after:
            raise Stopped("asked to")

    def note(self, level: str, message: str) -> None:
        pass


def test_the_suite_scores_benchmarks_after_the_rest_and_stops_within_them(
    model: Any, base: Base, toy_inputs: Path, packs: Path
) -> None:
    examples = load_examples(toy_inputs / "validation.jsonl", base.tokenizer, max_length=64, observer=Silent())
    benchmarks = read_benchmarks([order("piqa", packs), order("piqa", packs, num_fewshot=1)], packs)
    settings = Evaluation(perplexity_examples=4, multiple_choice=None)
    plan = make_plan(examples, settings, seed=0, observer=Silent(), benchmarks=benchmarks)

    ears = Ears()
    scores, items = evaluate(model, base.tokenizer, "quantized", plan, RUNTIME, ears, part=1, parts=2)
    assert [(score.task, score.metric) for score in scores] == [
        ("answer_perplexity", "perplexity"),
        ("piqa", "acc"),
        ("piqa", "acc_norm"),
        ("piqa 1-shot", "acc"),
        ("piqa 1-shot", "acc_norm"),
    ]
    assert [(found.task, len(found.answers)) for found in items.benchmarks] == [("piqa", 3), ("piqa 1-shot", 3)]
    evals = Evals(scores=scores, items=[items])
    assert Evals.model_validate_json(evals.model_dump_json()) == evals
    assert ears.heard == sorted(ears.heard)
    assert ears.heard[-1] == (20, 20)  # two subjects of 4 examples and 3 documents twice

    early = Ears(stop_after=len(ears.heard) - 1)
    with pytest.raises(Stopped):
        evaluate(model, base.tokenizer, "quantized", plan, RUNTIME, early, part=1, parts=2)
    assert 14 < early.heard[-1][0] <= 20


@pytest.mark.parametrize("task", TASKS)
def test_a_pack_is_read_down_to_the_columns_of_its_task(task: TaskName) -> None:
    docs = read_pack(pack_of(task), task)
    assert len(docs) == len(lines_of(task))
    assert all(set(doc) == set(DOCUMENTS[task].model_fields) for doc in docs)


@pytest.mark.parametrize("task", TASKS)
def test_a_document_without_a_column_is_named_by_its_line(task: TaskName, tmp_path: Path) -> None:
    first, second = (json.loads(line) for line in lines_of(task)[:2])
    for column in DOCUMENTS[task].model_fields:
        file = tmp_path / f"{column}.jsonl"
        lacking = {key: value for key, value in second.items() if key != column}
        file.write_text(f"{json.dumps(first)}\n\n{json.dumps(lacking)}\n")
        with pytest.raises(BadData, match=rf"{column}\.jsonl for {task}: line 3: lacks {column} \(it has "):
            read_pack(file, task)


@pytest.mark.parametrize(
    ("task", "change", "says"),
    [
        ("boolq", {"label": 2}, "label: Input should be less than or equal to 1"),
        ("boolq", {"label": "1"}, "label: Input should be a valid integer"),
        ("arc_easy", {"answerKey": "E"}, r"answerKey 'E' is none of the labels"),
        ("openbookqa", {"choices": {"text": ["a", "b"], "label": ["A"]}}, "choices has 2 texts and 1 labels"),
        ("winogrande", {"sentence": "no gap"}, "sentence: String should match pattern '_'"),
        ("race", {"problems": "[{]"}, "problems is not the text of a Python list"),
        ("race", {"problems": "[{'question': 'a', 'answer': 'E', 'options': []}]"}, "question 1 of problems: options"),
        ("wic", {"end1": 99}, "start1 14 and end1 99 cut no word out of sentence1"),
        ("hellaswag", {"label": ""}, "label: Input should be '0', '1', '2' or '3'"),
        ("mmlu", {"choices": ["a"]}, "choices: List should have at least 4 items"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused_in_words(
    task: TaskName, change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    file = tmp_path / "pack.jsonl"
    file.write_text(json.dumps(json.loads(lines_of(task)[0]) | change))
    with pytest.raises(BadData, match=f"line 1: .*{says}"):
        read_pack(file, task)


def test_a_subject_that_lm_eval_lacks_is_refused(model: Any, base: Base, packs: Path) -> None:
    lines = [line.replace('"anatomy"', '"alchemy"') for line in lines_of("mmlu")]
    (benchmark,) = read_benchmarks([order("mmlu", packs, lines)], packs)
    with pytest.raises(BadData, match="the subject 'alchemy'; known: abstract_algebra, anatomy"):
        run_benchmark(benchmark, model, base.tokenizer, "quantized", RUNTIME)


def test_more_examples_than_there_are_documents_are_refused_before_anything_runs(packs: Path) -> None:
    with pytest.raises(BadData, match="num_fewshot is 3, and piqa has 2 documents to show"):
        read_benchmarks([order("piqa", packs, num_fewshot=3)], packs)
    with pytest.raises(BadData, match="num_fewshot is 2, and mmlu_jurisprudence has 1 documents to show"):
        read_benchmarks([order("mmlu", packs, num_fewshot=2)], packs)
    shots = put(packs, 2, lines_of("mmlu")[:6])
    with pytest.raises(BadData, match="mmlu_jurisprudence has 0 documents"):
        read_benchmarks([order("mmlu", packs, num_fewshot=1, fewshot_file=shots)], packs)


def test_a_missing_pack_and_a_missing_lm_eval_are_named(packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = order("piqa", packs)
    with pytest.raises(BadData, match="for piqa is missing from the inputs"):
        open_benchmarks([spec], packs / "elsewhere")
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # Python's own way to say that there is none
    with pytest.raises(MissingPackage, match=r"pip install 'bitsmith\[eval\]'"):
        open_benchmarks([spec], packs)
    assert open_benchmarks([], packs) == ()


def test_a_score_says_what_somebody_needs_to_ask_the_same_again(model: Any, base: Base, packs: Path) -> None:
    def details(**changes: Any) -> ScoreDetails:
        (benchmark,) = read_benchmarks([order("piqa", packs, **changes)], packs)
        scores, _ = run_benchmark(benchmark, model, base.tokenizer, "quantized", RUNTIME)
        assert len({score.details for score in scores}) == 1
        return scores[0].details

    found = details()
    assert (found.num_fewshot, found.task_version, found.filter) == (0, "1.0", "none")
    assert found.harness == f"lm_eval {lm_eval.__version__}"
    fewer, shown = details(lines=lines_of("piqa")[:2]), details(num_fewshot=1)
    assert fewer.task_sha256 != found.task_sha256 == shown.task_sha256
    assert fewer.template_sha256 == found.template_sha256 == shown.template_sha256
    assert shown.num_fewshot == 1


def test_a_template_is_known_by_its_digest_in_every_process(model: Any, base: Base, packs: Path) -> None:
    """race builds its prompts with functions: their source is digested, and no address in memory."""
    digests = set()
    for task in ("race", "hellaswag"):
        for _ in range(2):
            (benchmark,) = read_benchmarks([order(task, packs)], packs)
            scores, _ = run_benchmark(benchmark, model, base.tokenizer, "quantized", RUNTIME)
            digests.add(scores[0].details.template_sha256)
    assert len(digests) == 2
