"""DiodeMix's rules side by side on a small byte-level model: pre-trained on one kind of text, quantized, adapted.

    python bench/rules.py --adapt TEXT [--bits 2] [--steps 200] [--seeds 1] [--rules RULE ...] [--out FILE]

The model (3 layers, width 128) learns Python's own standard library first, so nothing needs a download; its checkpoint
is kept beside the results. Held-out cross-entropy in nats per byte on the last tenth of TEXT.
"""

import argparse
import json
import random
import sysconfig
import time
from pathlib import Path
from typing import Any

import torch
from bitsmith_core.spec import DiodeMix as Settings
from bitsmith_engine.nn.swap import attach_sink, swap_linears
from bitsmith_engine.optim.diodemix import DiodeMix
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import scheme_for
from results import environment
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

ROWS, LENGTH = 16, 128
PRETRAINING_STEPS = 2000

RULES: dict[str, dict[str, Any]] = {
    "scales_only": {"mode": "scales_only"},
    "residual 1e-3": {"mode": "residual", "code_learning_rate": 1e-3},
    "residual 3e-3": {"mode": "residual", "code_learning_rate": 3e-3},
    "residual 1e-3 int4": {"mode": "residual", "code_learning_rate": 1e-3, "accumulator": "int4"},
    "residual 1e-3 float32": {"mode": "residual", "code_learning_rate": 1e-3, "accumulator": "float32"},
    "residual momentum 1e-3": {"mode": "residual", "code_learning_rate": 1e-3, "momentum": "float32"},
    "residual momentum int8 1e-3": {"mode": "residual", "code_learning_rate": 1e-3, "momentum": "int8"},
    "residual momentum low rank 1e-3": {"mode": "residual", "code_learning_rate": 1e-3, "momentum": "low_rank"},
    "residual gate 1 sigma 1e-3": {
        "mode": "residual",
        "code_learning_rate": 1e-3,
        "momentum": "float32",
        "gate_sigma": 1.0,
    },
    "rank 3e-3": {"mode": "rank", "momentum": "float32", "momentum_beta": 0.95, "flips_per_step": 3e-3},
    "rank 3e-3 int8": {"mode": "rank", "momentum": "int8", "momentum_beta": 0.95, "flips_per_step": 3e-3},
    "rank 3e-3 int4": {"mode": "rank", "momentum": "int4", "momentum_beta": 0.95, "flips_per_step": 3e-3},
    "rank 1e-2": {"mode": "rank", "momentum": "float32", "momentum_beta": 0.95, "flips_per_step": 1e-2},
    "sr 5e-4": {"mode": "sr", "momentum": "float32", "code_learning_rate": 5e-4},
    "eco 1e-3": {"mode": "eco", "momentum": "float32", "code_learning_rate": 1e-3},
    "adam_rtn 1e-3": {"mode": "adam_rtn", "momentum": "float32", "code_learning_rate": 1e-3},
}


def main() -> None:
    arguments = _parser().parse_args()
    text = arguments.adapt.read_bytes()
    cut = len(text) * 9 // 10
    learned, held_out = _bytes(text[:cut]), _bytes(text[cut:])
    base = _pretrained(arguments.checkpoint)
    rows = []
    print(
        f"float, before: {_loss(base, held_out):.3f}    INT{arguments.bits}, before: "
        f"{_loss(_quantized(base, arguments.bits)[0], held_out):.3f}"
    )
    print(f"{'rule':34} {'seed':>4} {'loss':>7} {'flips %':>8} {'s':>5}")
    for rule in arguments.rules or RULES:
        for seed in arguments.seeds:
            row = _adapt(base, arguments.bits, rule, seed, arguments.steps, learned, held_out)
            rows.append(row)
            print(
                f"{rule:34} {seed:4d} {row['loss']:7.3f} {100 * row['flip_rate']:8.2f} {row['wall_s']:5.0f}", flush=True
            )
    if arguments.out:
        arguments.out.write_text(json.dumps({**environment(), "bits": arguments.bits, "rows": rows}, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapt", type=Path, required=True, help="a text file to adapt to")
    parser.add_argument("--bits", type=int, default=2, choices=(2, 3, 4))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--rules", nargs="+", choices=list(RULES), metavar="RULE", help="; ".join(RULES))
    parser.add_argument("--checkpoint", type=Path, default=Path("rules-base.pt"), help="of the pre-trained small model")
    parser.add_argument("--out", type=Path, help="results as JSON")
    return parser


def _adapt(
    base: LlamaForCausalLM, bits: int, rule: str, seed: int, steps: int, learned: Tensor, held_out: Tensor
) -> dict[str, Any]:
    model, parameters = _quantized(base, bits)
    settings = dict(RULES[rule])
    per_step = settings.pop("flips_per_step", None)
    settings["flip_budget"] = 1.0 if per_step is None else per_step * steps / 2  # a cosine spends half of its peak
    optimizer = DiodeMix(
        parameters,
        Settings.model_validate({"scale_learning_rate": 1e-3} | settings),
        Schedule(steps=steps, warmup_fraction=0.1),
        seed=seed,
        float_weight=lambda name: base.get_parameter(f"{name}.weight").detach(),
    )
    attach_sink(model, optimizer)
    chance = random.Random(seed)
    began = time.perf_counter()
    for step in range(steps):
        optimizer.start(step)
        _next_byte_loss(model, _windows(learned, chance)).backward()  # type: ignore[no-untyped-call]
        optimizer.finish()
    return {
        "rule": rule,
        "seed": seed,
        "loss": _loss(model, held_out),
        "flip_rate": optimizer.total_flips / optimizer.total_codes,
        "wall_s": time.perf_counter() - began,
    }


def _quantized(base: LlamaForCausalLM, bits: int) -> tuple[Any, dict[str, QuantParameter]]:
    model = _empty()
    model.load_state_dict(base.state_dict())
    model.requires_grad_(False)
    parameters = {}
    for name, module in base.model.layers.named_modules(prefix="model.layers"):
        if isinstance(module, torch.nn.Linear):
            scheme = scheme_for(bits, module.in_features)
            affine = quantize(module.weight.detach(), scheme, clip_search=True)
            parameters[name] = QuantParameter(name, scheme, affine)
    swap_linears(model, parameters)
    return model, parameters


def _pretrained(checkpoint: Path) -> LlamaForCausalLM:
    model = _empty()
    if checkpoint.is_file():
        model.load_state_dict(torch.load(checkpoint, weights_only=True))
        return model
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = _bytes(b"".join(path.read_bytes() for path in sources))
    chance = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=PRETRAINING_STEPS, pct_start=0.05)
    for step in range(PRETRAINING_STEPS):
        loss = _next_byte_loss(model, _windows(text, chance))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 200 == 199:
            print(f"pre-training: step {step + 1} of {PRETRAINING_STEPS}, loss {loss.item():.3f}", flush=True)
    torch.save(model.state_dict(), checkpoint)
    return model


def _empty() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=LENGTH, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _bytes(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def _windows(text: Tensor, chance: random.Random) -> Tensor:
    starts = [chance.randrange(len(text) - LENGTH) for _ in range(ROWS)]
    return torch.stack([text[start : start + LENGTH] for start in starts])


def _next_byte_loss(model: Any, tokens_BT: Tensor) -> Tensor:
    logits = model(tokens_BT).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten())


@torch.no_grad()
def _loss(model: Any, held_out: Tensor) -> float:
    chance = random.Random("held out")
    losses = [_next_byte_loss(model, _windows(held_out, chance)).item() for _ in range(8)]
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
