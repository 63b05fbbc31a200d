"""How good what comes out is, beside what others make of the same data at the same bits.

    python bench/quality.py ptq --model DIR --calibration TEXT --test TEXT --bpw 2.5 3.0 --windows 128 --length 256
    python bench/quality.py sft --model DIR --alpaca FILE --start INT4 --seeds 1 2 3

ptq: perplexity of the test text: no beginning-of-sequence token, windows of --test-length tokens that do not overlap.
All methods use the layer-mix of our search for a bpw, its group sizes, and the same calibration windows; ours has
channel-mix instead where --scheme says so.
sft: loss of held-out answers in nats a token. All methods see the same examples, order and batches.

Each row is written to --out when it is there; --resume goes on after the rows that --out holds.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from bitsmith_core.bundle import AnswerLoss
from bitsmith_core.spec import Distillation, InitialCodes, LayerMixQuantization, Training
from bitsmith_engine.calibrate.start import uniform_plans
from bitsmith_engine.calibrate.windows import calibration_windows
from bitsmith_engine.evaluate.perplexity import answer_losses, perplexity
from bitsmith_engine.evaluate.text import read_tokens, split_windows, window_losses
from bitsmith_engine.models.opening import Base, load_float, open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.quant.plan import Plans
from bitsmith_engine.runtime import Runtime, choose_runtime, peak_memory_bytes
from bitsmith_engine.train.adapters import linear_names
from bitsmith_engine.train.loop import plan_steps
from data import as_examples, instructions, text_windows
from peers import ours, ptq, sft
from peers.rounding import Grid
from results import Results, Row
from tables import ptq_table, sft_table

OURS = {"ours": True, "ours-start": False}
"""With distillation, and without."""


def main() -> None:
    settings = _arguments()
    runtime = choose_runtime(settings.device)
    base = open_base(Path(settings.model))
    settings.cache = ours.cache_of(settings.model, settings.cache)
    results = Results(settings.out, settings=_identity(settings), resume=settings.resume)
    if settings.what == "ptq":
        run_ptq(settings, base, runtime, results)
        print(ptq_table(results.rows))
    else:
        run_sft(settings, base, runtime, results)
        print(sft_table(results.rows))


def run_ptq(settings: argparse.Namespace, base: Base, runtime: Runtime, results: Results) -> None:
    windows_BT = text_windows(
        settings.calibration, base.tokenizer, windows=settings.windows, length=settings.length, seed=settings.seed
    )
    test = split_windows(read_tokens(settings.test, base.tokenizer), settings.test_length)[: settings.test_windows]

    def judge(model: Any) -> Row:
        losses = [loss for part in window_losses(model, test, runtime) for loss in part]
        value, stderr = perplexity(losses)
        return {"perplexity": value, "stderr": stderr, "losses": [[loss.nll, loss.tokens] for loss in losses]}

    _row(
        results,
        runtime,
        lambda: load_float(base, runtime),
        judge,
        lambda model: {"bpw": 16.0},
        method="float",
        bpw=None,
    )
    shapes = _shapes(base)
    weights = {name: shape.numel() for name, shape in shapes.items()}
    for bpw in settings.bpw:
        bit_map = partial(
            ours.bit_map, base, as_examples(windows_BT), runtime, bpw=bpw, widths=settings.widths,
            group_size=settings.group_size, samples=settings.sensitivity_samples, seed=settings.seed,
            folder=settings.cache,
        )  # fmt: skip
        plans, grids = bit_map(scheme=settings.scheme), _grids(bit_map(scheme="layer-mix"))
        for method in settings.methods:
            if method in OURS:
                calibration = _calibration(settings, is_distilled=OURS[method])

                def make(plans: Plans = plans, calibration: ours.Calibration = calibration) -> Any:
                    parameters, rest, _ = ours.calibrated(
                        base, plans, windows_BT, calibration, runtime, seed=settings.seed, folder=settings.cache
                    )
                    return load_quantized(base, parameters, runtime, rest)

                effective = ours.bits_per_weight(plans, shapes)
            else:
                peer = ptq.PEERS[method]
                make = partial(_quantized_by, peer, settings, base, runtime, grids, windows_BT)
                effective = ptq.bits_per_weight(peer, grids, weights)

            def describe(model: Any, bits: float = effective) -> Row:
                return {"bpw": bits}

            _row(results, runtime, make, judge, describe, method=method, bpw=bpw)


def _quantized_by(
    peer: ptq.Peer,
    settings: argparse.Namespace,
    base: Base,
    runtime: Runtime,
    grids: dict[str, Grid],
    windows_BT: Any,
) -> Any:
    model = load_float(base, runtime)
    peer.quantize(
        ptq.Task(
            model=model,
            tokenizer=base.tokenizer,
            grids=grids,
            windows_BT=windows_BT,
            seed=settings.seed,
            autoround_iterations=settings.autoround_iterations,
        )
    )
    return model


def run_sft(settings: argparse.Namespace, base: Base, runtime: Runtime, results: Results) -> None:
    examples, held_out, spare = instructions(
        settings.alpaca,
        base.tokenizer,
        examples=settings.examples,
        held_out=settings.held_out,
        spare=settings.calibration_examples,
        max_length=settings.max_length,
    )
    if settings.calibration is None:
        measured = spare or examples
        windows_BT = calibration_windows(measured, samples=settings.windows, length=settings.length, seed=0)
    else:
        windows_BT = text_windows(
            settings.calibration, base.tokenizer, windows=settings.windows, length=settings.length, seed=0
        )
        measured = as_examples(windows_BT)
    if settings.start.upper().startswith("INT"):
        plans = uniform_plans(base, int(settings.start[3:]), group_size=settings.group_size)
    else:
        plans = ours.bit_map(
            base, measured, runtime, scheme=settings.scheme, bpw=float(settings.start), widths=settings.widths,
            group_size=settings.group_size, samples=settings.sensitivity_samples, seed=0, folder=settings.cache,
        )  # fmt: skip

    def judge(result: Any) -> Row:
        model = result.model.eval() if isinstance(result, sft.Result) else result
        found: dict[int, AnswerLoss] = {}
        for part in answer_losses(model, held_out, runtime):
            found |= part
        losses = [found[index] for index in range(len(held_out))]
        mean = math.fsum(loss.nll for loss in losses) / sum(loss.tokens for loss in losses)
        return {"loss": mean, "losses": [[loss.nll, loss.tokens] for loss in losses]}

    _row(results, runtime, lambda: load_float(base, runtime), judge, lambda model: {}, method="float", seed=None)
    for seed in settings.seeds:
        training = Training(epochs=settings.epochs, batch_size=settings.batch, packing=False)
        task = sft.Task(
            base=base,
            plans=plans,
            tokens_BT=windows_BT,
            calibration=_calibration(settings, is_distilled=not settings.no_distillation),
            requantization=_calibration(settings, is_distilled=settings.requantize_distils),
            cache=settings.cache,
            examples=examples,
            plan=plan_steps(examples, training, seed=seed),
            batch_size=settings.batch,
            warmup_fraction=training.warmup_fraction,
            runtime=runtime,
            seed=seed,
            rates=sft.RATES | dict(settings.rate),
            diodemix=dict(settings.diodemix),
        )
        for method in settings.methods:
            run = partial(sft.METHODS[method], task)
            # What is not trained is the same for all seeds.
            key = {"method": method, "seed": None if method == "start" else seed}
            _row(results, runtime, run, judge, lambda result: {"bytes": result.bytes, **result.facts}, **key)


def _row(
    results: Results,
    runtime: Runtime,
    make: Callable[[], Any],
    judge: Callable[[Any], Row],
    describe: Callable[[Any], Row],
    **key: Any,
) -> None:
    if results.has(**key):
        return
    began, began_core = time.perf_counter(), time.process_time()
    made = make()
    spent = {"wall_s": time.perf_counter() - began, "core_s": time.process_time() - began_core}
    values = {**judge(made), **describe(made), **spent, "peak_bytes_so_far": peak_memory_bytes(runtime)}
    results.add(values, **key)
    shown = {name: value for name, value in values.items() if name != "losses"}
    print(f"{key}: {shown}", file=sys.stderr)


def _grids(plans: Plans) -> dict[str, Grid]:
    return {
        name: Grid(bits=plan.schemes[0].bits, group_size=plan.schemes[0].group_size) for name, plan in plans.items()
    }


def _shapes(base: Base) -> dict[str, torch.Size]:
    return {name: base.weights.get(f"{name}.weight").shape for name in linear_names(base)}


def _calibration(settings: argparse.Namespace, *, is_distilled: bool) -> ours.Calibration:
    distillation = None
    if is_distilled:
        distillation = Distillation(
            samples=settings.windows,
            max_length=settings.length,
            block_epochs=settings.block_epochs,
            end_to_end_epochs=settings.end_to_end_epochs,
        )
    return ours.Calibration(initial=settings.initial, distillation=distillation)


def _identity(settings: argparse.Namespace) -> Row:
    """What rows must have in common; which rows are made is no part of it."""
    left_out = {"out", "resume", "cache", "methods", "bpw", "seeds", "device"}
    return {
        name: [list(pair) for pair in value] if name in ("rate", "diodemix") else _plain(value)
        for name, value in vars(settings).items()
        if name not in left_out
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _pair(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, float(value)


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", required=True, help="a transformers folder")
    common.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    common.add_argument("--cache", type=Path, default=Path("bench-cache"), help="calibrated starts are kept here")
    common.add_argument("--resume", action="store_true", help="keep the rows that --out holds")
    common.add_argument("--windows", type=int, default=128, help="calibration windows")
    common.add_argument("--length", type=int, default=256, help="tokens per calibration window")
    common.add_argument("--scheme", choices=get_args(ours.Mix), default="layer-mix", help="ours; peers have layer-mix")
    common.add_argument("--widths", type=int, nargs="+", default=list(LayerMixQuantization().widths))
    common.add_argument("--group-size", type=int, choices=[32, 64, 128], help="by width if unset, as in a job")
    common.add_argument("--sensitivity-samples", type=int, default=16)
    common.add_argument("--initial", choices=get_args(InitialCodes), default="gptq")
    common.add_argument("--block-epochs", type=int, default=Distillation().block_epochs)
    common.add_argument("--end-to-end-epochs", type=int, default=Distillation().end_to_end_epochs)

    quantize = commands.add_parser("ptq", parents=[common])
    quantize.add_argument("--calibration", type=Path, required=True, help="a text file")
    quantize.add_argument("--test", type=Path, required=True, help="a text file")
    quantize.add_argument("--test-length", type=int, default=512)
    quantize.add_argument("--test-windows", type=int, default=64)
    quantize.add_argument("--bpw", type=float, nargs="+", default=[2.5, 3.0])
    quantize.add_argument("--seed", type=int, default=0)
    quantize.add_argument("--methods", nargs="+", choices=[*OURS, *ptq.PEERS], default=[*OURS, *ptq.PEERS])
    quantize.add_argument("--autoround-iterations", type=int, default=200, help="200 is the library's default")
    quantize.add_argument("--out", type=Path, default=Path("ptq.json"))

    tune = commands.add_parser("sft", parents=[common])
    tune.add_argument("--alpaca", type=Path, required=True, help="a JSON list or JSONL of instructions")
    tune.add_argument("--calibration", type=Path, help="a text file to calibrate on; the training examples if unset")
    tune.add_argument(
        "--calibration-examples", type=int, default=0, help="that many other examples of --alpaca to calibrate on"
    )
    tune.add_argument("--start", default="INT4", help="INT2 to INT8, or bits per weight of a mix")
    tune.add_argument("--no-distillation", action="store_true", help="start from the first codes")
    tune.add_argument(
        "--requantize-distils", action="store_true", help="lora-requant by the whole calibration, not the first codes"
    )
    tune.add_argument("--examples", type=int, default=160)
    tune.add_argument("--held-out", type=int, default=48)
    tune.add_argument("--max-length", type=int, default=128)
    tune.add_argument("--batch", type=int, default=4)
    tune.add_argument("--epochs", type=int, default=1)
    tune.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    tune.add_argument("--methods", nargs="+", choices=sft.METHODS, default=list(sft.METHODS))
    tune.add_argument("--rate", type=_pair, nargs="*", default=[], metavar="METHOD=RATE", help=f"over {sft.RATES}")
    tune.add_argument("--diodemix", type=_setting, nargs="*", default=[], metavar="NAME=VALUE", help="over its spec")
    tune.add_argument("--out", type=Path, default=Path("sft.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
