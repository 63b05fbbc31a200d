"""Perplexity of running text, the way quantization papers measure it, with everything stated.

The text is tokenized whole, without a beginning-of-sequence token, and cut into windows of W tokens that do not
overlap; what is left at the end is dropped. Each window is read by itself and predicts its W - 1 tokens after the
first; the log-softmax is float32.

    value = exp( sum of nll / (windows * (W - 1)) )

The standard error is over windows (evaluate.perplexity), which are close to independent; tokens are not.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from bitsmith_core.bundle import AnswerLoss, Score, Subject

from bitsmith_engine.errors import BadData, Diverged
from bitsmith_engine.evaluate.perplexity import BATCH_TOKENS, perplexity
from bitsmith_engine.models.forward import Places, hidden_at, token_losses
from bitsmith_engine.ports import Observer, Silent
from bitsmith_engine.runtime import Runtime

TEXT_VERSION = 1  # raise when a score on the same tokens and window would change


def text_perplexity(
    model: Any,
    tokenizer: Any,
    file: Path,
    runtime: Runtime,
    *,
    window: int,
    subject: Subject = "float",
    windows: int | None = None,
    observer: Observer | None = None,
) -> tuple[Score, list[AnswerLoss]]:
    """The file's perplexity, and each window's loss for paired comparisons.

    Args:
        window: tokens per window, at least 2.
        windows: windows scored at most, the first of the file.

    Raises:
        BadData: the file is no UTF-8, or too short for one window.
        Diverged: a loss is NaN or infinite.
        Stopped: between two batches.
    """
    ids = read_tokens(file, tokenizer)
    cut = split_windows(ids, window)[:windows]
    losses: list[AnswerLoss] = []
    for part in window_losses(model, cut, runtime):
        losses += part
        (observer or Silent()).progress(len(losses), len(cut))
    value, stderr = perplexity(losses)
    score = Score(
        subject=subject,
        task="text_perplexity",
        metric="perplexity",
        value=value,
        stderr=stderr,
        n=sum(loss.tokens for loss in losses),
        n_unit="tokens",
        higher_is_better=False,
        comparable_key=_key(cut),
    )
    return score, losses


def read_tokens(file: Path, tokenizer: Any) -> list[int]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{file.name} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def split_windows(ids: Sequence[int], window: int) -> list[Sequence[int]]:
    """Windows of exactly `window` tokens; the rest is dropped."""
    if window < 2:
        raise ValueError(f"a window of {window} tokens predicts nothing")
    if len(ids) < window:
        raise BadData(f"the text has {len(ids)} tokens and does not fill a window of {window}; use a smaller window")
    return [ids[start : start + window] for start in range(0, len(ids) - window + 1, window)]


@torch.no_grad()
def window_losses(model: Any, windows: Sequence[Sequence[int]], runtime: Runtime) -> Iterator[list[AnswerLoss]]:
    """Losses in the windows' order, batch by batch."""
    W = len(windows[0])
    rows = max(1, BATCH_TOKENS // W)
    for start in range(0, len(windows), rows):
        tokens_BT = torch.tensor(windows[start : start + rows], device=runtime.device)
        B = len(tokens_BT)
        places = Places(
            torch.arange(B, device=runtime.device).repeat_interleave(W - 1),
            torch.arange(W - 1, device=runtime.device).repeat(B),
            tokens_BT[:, 1:].flatten(),
        )
        losses_A = token_losses(model, hidden_at(model, tokens_BT, places), places.target_A).double()
        if not bool(losses_A.isfinite().all()):
            raise Diverged("the model gives the text no finite likelihood: its weights or activations overflowed")
        yield [AnswerLoss(nll=nll, tokens=W - 1) for nll in losses_A.reshape(B, W - 1).sum(1).tolist()]


def _key(windows: Sequence[Sequence[int]]) -> str:
    digest = hashlib.sha256(f"text_perplexity {TEXT_VERSION} {len(windows[0])}\n".encode())
    for window in windows:
        digest.update(" ".join(map(str, window)).encode() + b"\n")
    return digest.hexdigest()
