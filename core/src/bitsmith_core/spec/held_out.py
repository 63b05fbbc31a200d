"""Which examples of a training file are not trained on when a job brings no validation file.

    one in 20, at least 8 and at most 256

Which ones depends on the examples and the job's seed alone: neither the base model nor an attempt changes it. Equal
examples stay together, so that none that is scored is trained on as well.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

from bitsmith_core.errors import InvalidFile
from bitsmith_core.spec.records import Record

ONE_IN = 20
FEWEST, MOST = 8, 256
FEWEST_IN_ALL = 2 * FEWEST  # at least as many are left to train on


def held_out_count(examples: int) -> int:
    """Of a training file with so many. Where examples repeat, it may be some more.

    Raises:
        InvalidFile: there are too few.
    """
    if examples < FEWEST_IN_ALL:
        raise InvalidFile(
            f"a job without a validation_file holds out {FEWEST} examples of its training file at least and needs "
            f"{FEWEST_IN_ALL} in it; there {'is' if examples == 1 else 'are'} {examples}: add examples, or give a "
            "validation_file"
        )
    return min(MOST, max(FEWEST, round(examples / ONE_IN)))


def hold_out(records: Sequence[Record], *, seed: int) -> tuple[list[Record], list[Record]]:
    """(to train on, held out), each in the file's order.

    Raises:
        InvalidFile: there are too few, or hardly any two differ.
    """
    wanted = held_out_count(len(records))
    keys = [hashlib.sha256(f"{seed}/{record.model_dump_json()}".encode()).digest() for record in records]
    counts = Counter(keys)
    room = min(2 * wanted, len(records) // 2)  # an example may have more copies than are wanted in all
    chosen: set[bytes] = set()
    taken = 0
    for key in sorted(counts):
        if taken < wanted and taken + counts[key] <= room:
            chosen.add(key)
            taken += counts[key]
    if taken < FEWEST:
        raise InvalidFile(
            f"only {len(counts)} of the {len(records)} examples differ, which is too few to hold some out; "
            "give a validation_file"
        )
    sides: tuple[list[Record], list[Record]] = ([], [])
    for key, record in zip(keys, records, strict=True):
        sides[key in chosen].append(record)
    return sides
