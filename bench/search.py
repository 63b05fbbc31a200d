"""How long the search takes once a base is measured, and how well the second-order damages rank what is really lost.

    python bench/search.py --model DIR --jsonl FILE --out search.json

The base is measured once, to second order; every budget after that reads what was stored. Unless --no-divergence is
given each unit is then rounded in turn, on the same tokens, and the divergence of the model's answers compared: that
takes time proportional to tokens * layers^2, and the whole float model in memory.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bitsmith_engine.data.examples import load_examples
from bitsmith_engine.models.opening import open_base
from bitsmith_engine.ports import Silent
from bitsmith_engine.runtime import choose_runtime
from bitsmith_engine.search.allocate import allocate, total_damage
from bitsmith_engine.search.channels import channel_plan
from bitsmith_engine.search.divergence import divergences
from bitsmith_engine.search.measuring import measure_into
from bitsmith_engine.search.rounding import Grid
from bitsmith_engine.search.sensitivity import (
    CALIBRATION_TOKENS,
    Sensitivity,
    choose_calibration,
    load_channels,
    load_sensitivity,
)
from results import environment, table

BUDGETS = (2.2, 2.5, 3.0, 4.0)


def main() -> None:
    arguments = _arguments()
    runtime = choose_runtime("auto")
    base = open_base(arguments.model)
    examples = load_examples(arguments.jsonl, base.tokenizer, max_length=arguments.max_length, observer=Silent())
    chosen = choose_calibration(examples, arguments.samples, seed=arguments.seed, limit_tokens=arguments.tokens)
    grid = Grid(group_size=None, symmetric=False, clip_search=True)

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter(), time.process_time()
        measure_into(
            Path(folder),
            base,
            chosen,
            runtime,
            Silent(),
            widths=arguments.widths,
            grid=grid,
            seed=arguments.seed,
        )
        facts: dict[str, Any] = {"measuring": _taken(*started)}
        found = load_sensitivity(Path(folder))
        facts["budgets"] = [_search(found, Path(folder), bpw) for bpw in BUDGETS if _is_within(bpw, found.widths)]
    facts["measured"] = found.model_dump(mode="json")
    print(f"measured {len(found.units)} units on {found.tokens} tokens in {facts['measuring']['wall_s']} s\n")
    print(_budget_table(facts["budgets"]))

    if not arguments.no_divergence:
        started = time.perf_counter(), time.process_time()
        true = divergences(base, chosen, found.widths, grid, runtime, Silent())
        facts["divergences"] = true
        facts["divergence_measuring"] = _taken(*started)
        facts["ranks"] = _ranks(found, true)
        print("\n" + _rank_table(facts["ranks"]))

    if arguments.out is not None:
        arguments.out.write_text(json.dumps({**environment(), **facts}, indent=1))


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's: Pearson's correlation of the ranks. Measured values have no ties worth averaging."""
    ranks = torch.stack([torch.tensor(values, dtype=torch.float64).argsort().argsort() for values in (left, right)])
    return torch.corrcoef(ranks.double())[0, 1].item()


def _search(found: Sensitivity, folder: Path, bpw: float) -> dict[str, Any]:
    started = time.perf_counter()
    bits = allocate(found.units, bpw=bpw, widths=found.widths)
    layer_mix_s = time.perf_counter() - started
    row: dict[str, Any] = {
        "bpw": bpw,
        "layer_mix_s": round(layer_mix_s, 3),
        "damage": total_damage(found.units, bits),
        "units_by_width": {str(width): count for width, count in sorted(Counter(bits.values()).items())},
        "bits": bits,
    }
    started = time.perf_counter()
    plans = channel_plan(found.units, load_channels(folder), bpw=bpw, widths=found.widths)
    row["channel_mix_s"] = round(time.perf_counter() - started, 3)
    row["mixed_layers"] = sum(len(plan.schemes) > 1 for plan in plans.values())
    return row


def _is_within(bpw: float, widths: Sequence[int]) -> bool:
    return min(widths) <= bpw <= max(widths)


def _ranks(found: Sensitivity, true: Mapping[str, Mapping[int, float]]) -> list[dict[str, float]]:
    rows = []
    for bits in found.widths:
        expected = [true[unit.name][bits] for unit in found.units]
        damages = [unit.damages[bits] for unit in found.units]
        rows.append(
            {
                "bits": bits,
                "second_order": rank_correlation(damages, expected),
                "weight_errors": rank_correlation([unit.weight_errors[bits] for unit in found.units], expected),
                "sum_of_second_order": sum(damages),
                "sum_of_divergences": sum(expected),
            }
        )
    return rows


def _taken(wall: float, cpu: float) -> dict[str, float]:
    return {"wall_s": round(time.perf_counter() - wall, 2), "cpu_s": round(time.process_time() - cpu, 2)}


def _budget_table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [
            str(row["bpw"]),
            f"{row['layer_mix_s']:.3f}",
            f"{row['damage']:.4g}",
            ", ".join(f"{count} INT{width}" for width, count in row["units_by_width"].items()),
            f"{row['channel_mix_s']:.3f}",
        ]
        for row in rows
    ]
    return table(cells, ["bpw", "layer-mix, s", "damage, nats", "units", "channel-mix, s"])


def _rank_table(rows: Sequence[Mapping[str, float]]) -> str:
    cells = [
        [f"INT{row['bits']:.0f}", f"{row['second_order']:.3f}", f"{row['weight_errors']:.3f}"]
        + [f"{row[name]:.4g}" for name in ("sum_of_second_order", "sum_of_divergences")]
        for row in rows
    ]
    return table(cells, ["width", "rank corr.", "of weight errors", "sum, nats", "sum of KL, nats"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a transformers folder or a .gguf file")
    parser.add_argument("--jsonl", type=Path, required=True, help="training examples")
    parser.add_argument("--widths", type=int, nargs="+", default=[2, 3, 4], help="bits to measure")
    parser.add_argument("--samples", type=int, default=16, help="examples, at most")
    parser.add_argument("--tokens", type=int, default=350, help=f"tokens, at most (a job's: {CALIBRATION_TOKENS})")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of an example")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-divergence", action="store_true", help="do not measure what is really lost")
    parser.add_argument("--out", type=Path, help="JSON with everything")
    return parser.parse_args()


if __name__ == "__main__":
    main()
