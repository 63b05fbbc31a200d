"""What is shown of an answer while it is written adds up to the whole answer, in whole characters, without stops."""

import pytest
from bitsmith_engine.chat.text import Detokenizer, StopFinder
from hypothesis import given
from hypothesis import strategies as st
from toy_model import toy_tokenizer

TOKENIZER = toy_tokenizer()
TEXT = st.text(alphabet="ab é€\U0001f642\n", max_size=20)


@given(TEXT)
def test_pieces_add_up_to_the_text(text: str) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    pieces = [detokenizer.push(token) for token in ids]
    assert "".join(pieces) + detokenizer.flush() == text
    assert "\ufffd" not in "".join(pieces)


def test_a_character_of_four_bytes_is_said_once_it_is_whole() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    ids = TOKENIZER("\U0001f642", add_special_tokens=False)["input_ids"]
    assert [detokenizer.push(token) for token in ids] == ["", "", "", "\U0001f642"]


def test_a_broken_character_at_the_end_is_not_lost() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    ids = TOKENIZER("a\U0001f642", add_special_tokens=False)["input_ids"]
    assert "".join(detokenizer.push(token) for token in ids[:-1]) == "a"
    assert detokenizer.flush() == "\ufffd"


@given(st.lists(st.text(alphabet="abc", max_size=4), max_size=8), st.lists(st.text("abc", min_size=1), max_size=3))
def test_what_is_shown_is_the_text_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    finder = StopFinder(stops)
    shown = "".join(finder.push(piece) for piece in pieces) + finder.flush()
    text = "".join(pieces)
    # The first stop to be complete ends the answer; of several complete at once, the one that begins first.
    ends = [text.find(stop) for stop in stops if stop in text]
    if not ends:
        assert shown == text
        assert not finder.is_found
    else:
        assert finder.is_found
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [(["ab", "c"], ["", "abc"]), (["a", "b", "c"], ["", "", "abc"]), (["xa", "ab"], ["x", "a"])],
)
def test_what_may_become_a_stop_is_held_back(pieces: list[str], shown: list[str]) -> None:
    finder = StopFinder(["abd"])
    assert [finder.push(piece) for piece in pieces] == shown
