"""Text and instructions from local files, as windows and examples.

Shape letters: B windows, T tokens per window.
"""

import json
import random
from pathlib import Path
from typing import Any

import torch
from bitsmith_core.spec import parse_record
from bitsmith_engine.data.examples import Example, encode
from torch import Tensor


def text_windows(file: Path, tokenizer: Any, *, windows: int, length: int, seed: int) -> Tensor:
    """int64 (B, T): windows that do not overlap, drawn by the seed, in the text's order; no token is added."""
    ids: list[int] = tokenizer(file.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    available = len(ids) // length
    if available < windows:
        raise SystemExit(f"{file.name} holds {available} windows of {length} tokens; ask for fewer than {windows}")
    chosen = sorted(random.Random(f"text/{seed}").sample(range(available), windows))
    return torch.tensor([ids[index * length : (index + 1) * length] for index in chosen])


def as_examples(windows_BT: Tensor) -> list[Example]:
    """Windows of plain text, every token learned."""
    return [
        Example(ids=tuple(row), learned=(True,) * len(row), answer_start=0, answer="", is_cut=False)
        for row in windows_BT.tolist()
    ]


def instructions(
    file: Path, tokenizer: Any, *, examples: int, held_out: int, spare: int, max_length: int
) -> tuple[list[Example], list[Example], list[Example]]:
    """(training, held out, spare) from a JSON list or JSONL of records; which is which depends on the file alone.

    Examples longer than max_length are left out, so that every method learns whole answers.
    """
    text = file.read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    random.Random("instructions").shuffle(rows)
    found: list[Example] = []
    for row in rows:
        try:
            record = parse_record(json.dumps(row).encode())
        except ValueError:
            continue  # Alpaca has answers that are empty
        example = encode(record, tokenizer, max_length)
        if not example.is_cut and any(example.learned[1:]):
            found.append(example)
        if len(found) == held_out + examples + spare:
            return found[held_out : held_out + examples], found[:held_out], found[held_out + examples :]
    raise SystemExit(f"{file.name} holds {len(found)} examples of at most {max_length} tokens; ask for fewer")
