"""How fast a training step is, and how much memory it takes: Q-SFT beside QLoRA, LoRA and full fine-tuning.

    python bench/speed.py --model DIR --batch 8 --length 128 --steps 6 --rounds 3 --out speed.json

Every method sees the same tokens: batch x length, the second half of each row learned. Every measurement is a process
of its own, so that peak memory is the method's own; the methods take turns, round by round, so that whatever else the
machine does meets all of them. A step is forward, backward and update; the first of a process is not counted.

On a CPU that others use too, look at tokens per core-second: time that other processes were given does not count in it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bitsmith_core.spec import DiodeMix as DiodeMixSettings
from bitsmith_core.spec import LoraTraining
from bitsmith_engine.calibrate.start import round_base, start_weights
from bitsmith_engine.data.batching import Batch, collate
from bitsmith_engine.data.examples import Example
from bitsmith_engine.models.forward import Places, hidden_at, token_losses
from bitsmith_engine.models.opening import Base, load_float, open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.nn.swap import attach_sink
from bitsmith_engine.optim.diodemix import DiodeMix
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.runtime import Runtime, choose_runtime, generator, peak_memory_bytes
from bitsmith_engine.train.adapters import attach_adapter, load_nf4
from results import Results, table

Step = Callable[[int], None]

REFERENCE = "qlora"


def main() -> None:
    settings = _arguments()
    if settings.measure is not None:
        print(json.dumps(measure(settings.measure, settings)))
        return
    shape = {name: getattr(settings, name) for name in ("model", "batch", "length", "steps")}
    results = Results(settings.out, settings=shape, resume=settings.resume)
    for number in range(settings.rounds):
        for method in settings.methods:
            if results.has(method=method, round=number):
                continue
            found = _measure_apart(method, settings)
            results.add(found, method=method, round=number)
            speed = found["tokens"] / min(found["seconds"])
            print(f"round {number + 1}, {method}: {speed:.0f} tok/s", file=sys.stderr)
    print(summary(results.rows, settings.methods))


def measure(method: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each counted step of one method, in this process."""
    runtime = choose_runtime(settings.device)
    base = open_base(Path(settings.model))
    batch = make_batch(base, settings.batch, settings.length, runtime, seed=0)
    step = METHODS[method](base, batch, runtime)
    loaded_bytes = peak_memory_bytes(runtime)
    seconds, core_seconds = [], []
    for number in range(settings.steps + 1):
        _wait(runtime)
        began, began_core = time.perf_counter(), time.process_time()
        step(number)
        _wait(runtime)
        seconds.append(time.perf_counter() - began)
        core_seconds.append(time.process_time() - began_core)
    return {
        "tokens": batch.num_tokens,
        "seconds": seconds[1:],
        "core_seconds": core_seconds[1:],
        "loaded_bytes": loaded_bytes,
        "peak_bytes": peak_memory_bytes(runtime),
    }


def make_batch(base: Base, rows: int, length: int, runtime: Runtime, *, seed: int) -> Batch:
    tokens_BT = torch.randint(0, base.config.vocab_size, (rows, length), generator=generator(seed)).tolist()
    learned = tuple(column >= length // 2 for column in range(length))
    return collate(
        [
            Example(ids=tuple(row), learned=learned, answer_start=length // 2, answer="", is_cut=False)
            for row in tokens_BT
        ],
        runtime.device,
    )


def backward(model: Any, batch: Batch) -> None:
    hidden_AH = hidden_at(model, batch.tokens_BT, Places(batch.row_A, batch.column_A, batch.target_A))
    token_losses(model, hidden_AH, batch.target_A).mean().backward()  # type: ignore[no-untyped-call]


def _ours(mode: str) -> Callable[[Base, Batch, Runtime], Step]:
    def prepare(base: Base, batch: Batch, runtime: Runtime) -> Step:
        parameters = round_base(base, 4, runtime)
        model = load_quantized(base, parameters, runtime)
        optimizer = DiodeMix(
            parameters,
            DiodeMixSettings.model_validate({"mode": mode}),
            Schedule(steps=1000, warmup_fraction=0.0),
            seed=0,
            float_weight=start_weights(base, parameters, "rtn"),
        )
        attach_sink(model, optimizer)

        def step(number: int) -> None:
            optimizer.start(number)
            backward(model, batch)
            optimizer.finish()

        return step

    return prepare


def _adapter(*, nf4: bool) -> Callable[[Base, Batch, Runtime], Step]:
    def prepare(base: Base, batch: Batch, runtime: Runtime) -> Step:
        model = attach_adapter(load_nf4(base, runtime) if nf4 else load_float(base, runtime), base, LoraTraining())
        return _adamw_step(model.get_base_model(), batch, 2e-4)

    return prepare


def _full(base: Base, batch: Batch, runtime: Runtime) -> Step:
    # All weights in the precision of the computation, AdamW's moments too: the least memory full fine-tuning can have.
    return _adamw_step(load_float(base, runtime).requires_grad_(True), batch, 2e-5)


def _adamw_step(model: Any, batch: Batch, rate: float) -> Step:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)

    def step(number: int) -> None:
        backward(model, batch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


METHODS: dict[str, Callable[[Base, Batch, Runtime], Step]] = {
    "scales_only": _ours("scales_only"),
    "residual": _ours("residual"),
    "qlora": _adapter(nf4=True),
    "lora": _adapter(nf4=False),
    "full": _full,
}


def summary(rows: list[dict[str, Any]], methods: list[str]) -> str:
    """The best and the median step of all rounds; ratios are of the best steps."""
    measured = {method: [row for row in rows if row["key"]["method"] == method] for method in methods}
    measured = {method: mine for method, mine in measured.items() if mine}

    def best(method: str, clock: str) -> float:
        mine = measured[method]
        return float(mine[0]["tokens"] / min(second for row in mine for second in row[clock]))

    lines = []
    for method, mine in measured.items():
        median = mine[0]["tokens"] / statistics.median(second for row in mine for second in row["seconds"])
        cells = [method, f"{best(method, 'seconds'):.0f}", f"{median:.0f}", f"{best(method, 'core_seconds'):.1f}"]
        for clock in ("seconds", "core_seconds"):
            is_known = REFERENCE in measured
            cells.append(f"{best(method, clock) / best(REFERENCE, clock):.2f}" if is_known else "-")
        lines.append([*cells, f"{max(row['peak_bytes'] for row in mine) / 1e9:.2f}"])
    headings = ["method", "tok/s, best", "tok/s, median", "tok/core-s, best"]
    return table(lines, [*headings, f"tok/s to {REFERENCE}", f"tok/core-s to {REFERENCE}", "peak GB"])


def _measure_apart(method: str, settings: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", method]
    for name in ("model", "batch", "length", "steps", "device"):
        command += [f"--{name}", str(getattr(settings, name))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _wait(runtime: Runtime) -> None:
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a transformers folder")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6, help="counted steps per process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--out", type=Path, default=Path("speed.json"))
    parser.add_argument("--resume", action="store_true", help="keep the rows that --out holds")
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
