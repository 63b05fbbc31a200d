"""What the perplexity of a text promises: whole windows, each by itself, without a token that the text lacks."""

import math
from pathlib import Path
from typing import Any

import pytest
from bitsmith_engine.errors import BadData, Diverged
from bitsmith_engine.evaluate.perplexity import perplexity
from bitsmith_engine.evaluate.text import read_tokens, split_windows, text_perplexity
from bitsmith_engine.models.opening import Base, load_float, open_base
from bitsmith_engine.runtime import choose_runtime
from reference.likelihood import answer_log_likelihood

RUNTIME = choose_runtime("cpu")
TEXT = "The quick brown fox jumps over the lazy dog; naïve, it seems.\n" * 3


@pytest.fixture(scope="module")
def base(toy_inputs: Path) -> Base:
    return open_base(toy_inputs / "model")


@pytest.fixture(scope="module")
def model(base: Base) -> Any:
    return load_float(base, RUNTIME)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_it_is_that_of_one_window_at_a_time(model: Any, base: Base, file: Path) -> None:
    score, losses = text_perplexity(model, base.tokenizer, file, RUNTIME, window=50)
    ids = list(TEXT.encode())
    tokens = base.tokenizer.encode(TEXT, add_special_tokens=False)
    assert len(tokens) == len(ids)  # one token a byte, and none added
    expected = [-answer_log_likelihood(model, tokens[s : s + 1], tokens[s + 1 : s + 50]) for s in (0, 50, 100)]
    assert [loss.nll for loss in losses] == pytest.approx(expected, rel=1e-5)
    assert score.n == 3 * 49 == sum(loss.tokens for loss in losses)
    assert score.value == pytest.approx(math.exp(sum(expected) / (3 * 49)), rel=1e-5)
    assert score.stderr == pytest.approx(perplexity(losses)[1])


def test_windows_are_whole_and_the_rest_is_dropped() -> None:
    assert split_windows(range(11), 4) == [range(0, 4), range(4, 8)]
    assert split_windows(range(8), 4) == [range(0, 4), range(4, 8)]


def test_batches_change_nothing(model: Any, base: Base, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text(TEXT * 30)
    _, losses = text_perplexity(model, base.tokenizer, file, RUNTIME, window=64)
    assert len(losses) > 2048 // 64
    _, first = text_perplexity(model, base.tokenizer, file, RUNTIME, window=64, windows=3)
    assert [loss.nll for loss in losses[:3]] == pytest.approx([loss.nll for loss in first], rel=1e-5)


def test_keys_tell_windows_and_texts_apart(model: Any, base: Base, file: Path, tmp_path: Path) -> None:
    def key(path: Path, window: int) -> str:
        return text_perplexity(model, base.tokenizer, path, RUNTIME, window=window)[0].comparable_key

    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("fox", "cat"))
    assert key(file, 50) == key(file, 50)
    assert len({key(file, 50), key(file, 25), key(other, 50)}) == 3


def test_what_cannot_be_scored_is_refused_in_words(base: Base, file: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=f"has {len(TEXT.encode())} tokens and does not fill a window of 2048"):
        split_windows(read_tokens(file, base.tokenizer), 2048)
    latin = tmp_path / "latin.txt"
    latin.write_bytes("naïve".encode("latin-1"))
    with pytest.raises(BadData, match=r"latin\.txt is not UTF-8 text: .* at byte 2"):
        read_tokens(latin, base.tokenizer)
    broken = load_float(base, RUNTIME)
    broken.model.norm.weight.data.fill_(math.nan)
    with pytest.raises(Diverged, match="no finite likelihood"):
        text_perplexity(broken, base.tokenizer, file, RUNTIME, window=50)
