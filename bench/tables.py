"""Rows of the quality bench as tables, with differences to our result paired item by item."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from results import Row, table


def ptq_table(rows: Sequence[Row]) -> str:
    """Differences in nats a token, paired over the test windows: positive where our result is better."""
    lines = []
    for row in rows:
        mine = _find(rows, method="ours", bpw=row["key"]["bpw"])
        lines.append(
            [
                row["key"]["method"],
                "-" if row["key"]["bpw"] is None else f"{row['key']['bpw']:g}",
                f"{row['bpw']:.2f}",
                f"{row['perplexity']:.2f} ± {row['stderr'] or 0:.2f}",
                "-" if mine is None or mine is row else _difference([row], [mine]),
                f"{row['core_s']:.0f}",
            ]
        )
    return table(lines, ["method", "bpw", "bpw with scales", "perplexity", "nats above ours, paired", "core-s"])


def sft_table(rows: Sequence[Row]) -> str:
    """Mean and standard deviation over seeds; differences paired over the held-out examples, averaged over seeds."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row["key"]["method"], []).append(row)
    lines = []
    for method, found in by_method.items():
        losses = [row["loss"] for row in found]
        spread = f" (sd {statistics.stdev(losses):.3f}, {len(losses)} seeds)" if len(losses) > 1 else ""
        mine = by_method.get("scales_only")
        lines.append(
            [
                method,
                f"{statistics.mean(losses):.4f}{spread}",
                "-" if mine is None or method == "scales_only" else _difference(found, mine),
                f"{found[0]['bytes'] / 1e6:.1f}" if "bytes" in found[0] else "-",
                f"{100 * found[0]['flip_rate']:.2f} %" if "flip_rate" in found[0] else "-",
                f"{statistics.mean(row['core_s'] for row in found):.0f}",
            ]
        )
    return table(lines, ["method", "held-out loss", "above scales_only, paired", "MB", "flips", "core-s"])


def _difference(theirs: Sequence[Row], mine: Sequence[Row]) -> str:
    value, stderr = paired_difference(_mean_nll(theirs), _mean_nll(mine), [tokens for _, tokens in mine[0]["losses"]])
    return f"{value:+.4f} ± {stderr:.4f}"


def _mean_nll(rows: Sequence[Row]) -> list[float]:
    """Of each item, over the seeds."""
    return [statistics.mean(nll for nll, _ in items) for items in zip(*(row["losses"] for row in rows), strict=True)]


def paired_difference(theirs: Sequence[float], mine: Sequence[float], tokens: Sequence[int]) -> tuple[float, float]:
    """(difference in nats a token, its standard error), items being the clusters of a ratio estimator.

    Source: Cochran 1977, Sampling Techniques, section 6.3.
    """
    gains = [a - b for a, b in zip(theirs, mine, strict=True)]
    n, total = len(gains), sum(tokens)
    value = math.fsum(gains) / total
    scatter = math.fsum((gain - value * count) ** 2 for gain, count in zip(gains, tokens, strict=True))
    return value, math.sqrt(n / (n - 1) * scatter) / total if n > 1 else math.nan


def _find(rows: Sequence[Row], **key: Any) -> Row | None:
    return next((row for row in rows if row["key"] == key), None)
