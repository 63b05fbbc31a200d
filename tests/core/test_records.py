"""Every shape people have becomes turns; every bad line is named."""

import contextlib
import json

import pytest
from bitsmith_core.errors import InvalidFile
from bitsmith_core.spec import parse_object, parse_record, read_lines, read_records
from bitsmith_core.spec.records import MAX_LINE_BYTES, MAX_PROBLEMS
from hypothesis import given
from hypothesis import strategies as st

GOOD = b'{"prompt": "2+2?", "completion": "4"}\n'


def turns(line: bytes) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in parse_record(line).messages]


def test_messages_prompts_and_alpaca_are_one_thing() -> None:
    expected = [("user", "2+2?"), ("assistant", "4")]
    chat = b'{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", "weight": 1}]}'
    assert turns(chat) == expected
    assert turns(GOOD) == expected
    assert turns(b'{"instruction": "2+2?", "input": "", "output": "4"}') == expected


def test_alpaca_input_follows_the_instruction() -> None:
    line = b'{"instruction": "Add.", "input": "2 2", "output": "4"}'
    assert turns(line) == [("user", "Add.\n\n2 2"), ("assistant", "4")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not JSON"),
        (b'{"prompt": \n', "not JSON: Expecting value at column 11"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"text": "x"}', "found the keys ['text']"),
        (b'{"prompt": "x"}', "completion: Field required"),
        (b'{"prompt": "x", "completion": ""}', "completion"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "robot", "content": "x"}]}', "messages.0.role"),
        (b'{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}', "last message"),
        (b'{"prompt": "\xff", "completion": "x"}', "not UTF-8: byte 12"),
        (b"[" * 100_000, "not JSON"),
        (b'{"prompt": "a\0b", "completion": "x"}', "byte 13 of the line is NUL"),
        ('{"prompt": "a", "completion": "b"}'.encode("utf-16-le"), "NUL"),
        ('{"prompt": "ä", "completion": "b"}'.encode("latin-1"), "not UTF-8: byte 12 of the line is 0xe4"),
        (b'{"prompt": "\\ud83d", "completion": "x"}', "half of a surrogate pair"),
        (b'{"prompt": "x", "completion": "y", "weight": NaN}', "NaN is no number"),
        (b"\xef\xbb\xbf" + GOOD, "BOM"),
    ],
)
def test_a_bad_line_says_what_is_wrong(line: bytes, says: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        list(read_records([line]))
    assert says in str(caught.value).replace("nested too deeply", "not JSON")


def test_the_number_of_the_bad_line_counts_blank_ones() -> None:
    with pytest.raises(InvalidFile, match=r"^line 7: not JSON") as caught:
        list(read_records([GOOD] * 4 + [b"\n", GOOD, b"oops\n", GOOD]))
    assert [problem.pointer for problem in caught.value.problems] == ["line 7"]


def test_all_bad_lines_are_named_up_to_a_limit() -> None:
    with pytest.raises(InvalidFile) as caught:
        list(read_records([b"oops\n"] * 1000))
    assert len(caught.value.problems) == MAX_PROBLEMS


def test_a_huge_line_is_refused_without_parsing_it() -> None:
    with pytest.raises(InvalidFile, match="longer than 1000000 bytes"):
        list(read_records([b'"' + b"x" * MAX_LINE_BYTES + b'"']))


def test_a_file_without_examples_is_refused() -> None:
    with pytest.raises(InvalidFile, match="no example"):
        list(read_records([b"\n", b"  \n"]))


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1))
def test_any_text_survives(pairs: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"prompt": p, "completion": c}).encode() for p, c in pairs]
    assert [(r.messages[0].content, r.messages[1].content) for r in read_records(lines)] == pairs


@given(st.binary())
def test_any_bytes_are_a_record_or_a_named_problem(line: bytes) -> None:
    with contextlib.suppress(InvalidFile):
        list(read_records([line]))


def test_a_line_of_an_eval_pack_is_any_object_and_nothing_else() -> None:
    assert list(read_lines([b'{"a": [1]}\n', b"\n", b"{}\n"], parse_object)) == [{"a": [1]}, {}]
    with pytest.raises(InvalidFile) as caught:
        list(read_lines([b"{}\n", b"[1]\n", b"{\n"], parse_object))
    assert [problem.pointer for problem in caught.value.problems] == ["line 2", "line 3"]
    assert "expected a JSON object, found list" in str(caught.value)


def test_a_whole_surrogate_pair_is_one_character() -> None:
    assert turns(b'{"prompt": "\\ud83d\\ude00", "completion": "x"}')[0] == ("user", "\N{GRINNING FACE}")
