"""LoRA and QLoRA through peft and bitsandbytes: what Q-SFT is compared with, on its batches and with its loss.

    Y = X W^T + alpha / r * X A^T B^T        A (r, K) random, B (N, r) zero at the start; W frozen, in float or in NF4

Sources: Hu et al. 2021, https://arxiv.org/abs/2106.09685; Dettmers et al. 2023, https://arxiv.org/abs/2305.14314 (its
double quantization is left off here: at 64 weights a block it saves 0.37 bits of 4.5).

On CPUs with bf16 instructions bitsandbytes repacks a layer's weight at its first forward pass in evaluation mode, and
no gradient passes through the repacked form, silently. So its layers stay in training mode until training is over, and
a step whose gradient does not reach every adapter is an error.

Shape letters: N output features, K input features, r rank.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsmith_core.bundle import TrainingFacts
from bitsmith_core.spec import LoraTraining
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitsmith_engine.data.examples import Example, check_vocabulary
from bitsmith_engine.errors import BadData, BadModel
from bitsmith_engine.models.architecture import units
from bitsmith_engine.models.opening import Base, CausalLM, build_empty, fill, load_float, parameter_names
from bitsmith_engine.ports import Observer
from bitsmith_engine.runtime import Runtime
from bitsmith_engine.train.adapter_loop import train_loop
from bitsmith_engine.train.checkpoint import OnCheckpoint

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
NF4_BITS_PER_WEIGHT = 4 + 32 / 64
"""A float32 maximum for every block of 64 codes."""

_PREFIX = "base_model.model."  # of every name in an adapter file; peft's format


@dataclass(frozen=True, slots=True)
class AdapterResult:
    model: Any  # a peft model; its get_base_model() is the causal LM with adapters in it
    facts: TrainingFacts


def train_adapter(
    base: Base,
    settings: LoraTraining,
    *,
    nf4: bool,
    examples: Sequence[Example],
    plan: Sequence[Sequence[int]],
    runtime: Runtime,
    observer: Observer,
    seed: int,
    held_out: Sequence[Example],
    checkpoints: Path | None = None,
    on_checkpoint: OnCheckpoint | None = None,
) -> AdapterResult:
    """Train adapters on every linear layer of the base's decoder; everything else is frozen.

    Args:
        nf4: the base's linear layers in bitsandbytes' NF4 (QLoRA) rather than in floating point (LoRA).
        plan: which examples each optimizer step sees.
        held_out: what early stopping looks at.
        checkpoints, on_checkpoint: as for train_loop.

    Raises:
        BadData: the plan is empty, or early stopping has nothing to look at.
        BadModel: an example holds a token that the base has no embedding for, or no gradient reaches an adapter.
        Diverged: a loss was NaN or infinite; no update was made from it.
        Stopped: between two steps, after a checkpoint.
    """
    if not plan:
        raise BadData("there is nothing to train on: the plan has no steps")
    check_vocabulary([*examples, *held_out], base.config.vocab_size)
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)  # peft draws A from the global generator, and so does dropout
        model = attach_adapter(load_nf4(base, runtime) if nf4 else load_float(base, runtime), base, settings)
        facts = train_loop(
            model, settings, examples, plan, runtime, observer, held_out,
            mode="qlora" if nf4 else "lora", seed=seed, checkpoints=checkpoints, on_checkpoint=on_checkpoint,
        )  # fmt: skip
    model.eval()
    return AdapterResult(model, facts)


def attach_adapter(model: CausalLM, base: Base, settings: LoraTraining) -> Any:
    """The model with fresh adapters beside every linear layer of its decoder, in training mode."""
    # Importing peft takes seconds, and only two methods need it.
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # declared as int, used as a number
        lora_dropout=settings.dropout,
        target_modules=sorted({name.rpartition(".")[2] for name in linear_names(base)}),
        bias="none",
        task_type="CAUSAL_LM",
    )
    peft_model: Any = get_peft_model(model, config)
    if settings.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return peft_model.train()


def load_nf4(base: Base, runtime: Runtime) -> CausalLM:
    """The base with its decoder's linear layers in NF4; one float layer is in memory at a time."""
    from bitsandbytes.nn.modules import Linear4bit, Params4bit  # seconds, as peft

    model = build_empty(base.config)
    linears = linear_names(base)
    weights = {f"{name}.weight" for name in linears}
    fill(model, base, [name for name in parameter_names(model) if name not in weights], runtime)
    for name in linears:
        fill(model, base, [f"{name}.weight"], runtime)
        old = model.get_submodule(name)
        layer = Linear4bit(  # type: ignore[no-untyped-call]  # bitsandbytes types it not
            old.in_features,
            old.out_features,
            bias=False,
            compute_dtype=runtime.compute_dtype,
            compress_statistics=False,
            quant_type="nf4",
            device="meta",
        )
        weight: Any = Params4bit(
            old.weight.data, requires_grad=False, compress_statistics=False, quant_type="nf4", module=layer
        )
        layer.weight = weight.to(runtime.device)  # quantizes
        layer.bias = old.bias
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, layer)
    model.is_loaded_in_4bit = True  # how peft knows which kind of adapter to make
    return model


def linear_names(base: Base) -> list[str]:
    """Module paths of the decoder's linear layers, in the order of computation."""
    return [name for unit in units(base.config) for name in unit.layers]


def save_adapter(result: AdapterResult, folder: Path) -> None:
    """A folder in peft's format; it names no base, because a path of this machine would mean nothing elsewhere."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(result.model, save_embedding_layers=False)
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / ADAPTER_FILE)
    config = result.model.peft_config["default"].to_dict()
    for name, value in config.items():
        if isinstance(value, set):
            config[name] = sorted(value)
    config |= {"base_model_name_or_path": None, "inference_mode": True}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True))


def load_for_evaluation(base: Base, folder: Path, *, nf4: bool, runtime: Runtime) -> CausalLM:
    """The causal LM with the adapter of a folder in it; not for training.

    Raises:
        BadModel: the adapter does not fit the base.
    """
    from peft import PeftModel

    model = load_nf4(base, runtime) if nf4 else load_float(base, runtime)
    try:
        peft_model = PeftModel.from_pretrained(model, str(folder))
    except (OSError, RuntimeError, ValueError) as error:
        raise BadModel(f"the adapter in {folder.name} does not fit this base: {error}") from error
    return peft_model.get_base_model().eval()


def merged_tensors(base: Base, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the float base with the adapter's product added, rounded once, one tensor at a time.

    For an adapter trained beside NF4 as well: the field merges those into the float base too.
    """
    config = json.loads((folder / CONFIG_FILE).read_text())
    scaling = config["lora_alpha"] / config["r"]
    factors = load_file(folder / ADAPTER_FILE)
    tied = {"lm_head.weight"} if base.config.tie_word_embeddings else set()
    for name in parameter_names(build_empty(base.config)):
        if name in tied:
            continue
        weight = base.weights.get(name).float()
        a_rK = factors.get(f"{_PREFIX}{name.removesuffix('.weight')}.lora_A.weight")
        if a_rK is not None:
            b_Nr = factors[f"{_PREFIX}{name.removesuffix('.weight')}.lora_B.weight"]
            weight = weight + scaling * (b_Nr.float() @ a_rK.float())
        yield name, weight.to(dtype)
