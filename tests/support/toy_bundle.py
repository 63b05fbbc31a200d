"""Bundles of the toy model as jobs publish them, but rounded in a moment instead of trained."""

from pathlib import Path

import torch
from bitsmith_core.bundle import MANIFEST, Environment, Evals, Manifest, describe_files
from bitsmith_engine.export.bundle import quantization_facts, write_bf16, write_native
from bitsmith_engine.export.shards import write_shards
from bitsmith_engine.models.architecture import units
from bitsmith_engine.models.opening import Base, open_base
from bitsmith_engine.quant.plan import LayerPlan, plan_layer, quantize_layer
from bitsmith_engine.quant.storage import Parameters
from toy_plans import four_and_two

_NO_EVALS = Evals(scores=[], items=[])


def write_native_bundle(base_folder: Path, folder: Path) -> Manifest:
    """What qsft and quantize publish: every kind of block that the layout knows, in one model."""
    base = open_base(base_folder)
    parameters = _rounded(base)
    folder.mkdir()
    model_bytes = write_native(base, parameters, {}, _NO_EVALS, folder)
    write_bf16(base, parameters, {}, folder / "bf16")
    facts = quantization_facts(base, parameters, {}, [], scheme="layer-mix", model_bytes=model_bytes)
    return _with_manifest(folder, facts.model_dump())


def write_merged_bundle(base_folder: Path, folder: Path) -> Manifest:
    """What lora and qlora publish: merged 16-bit weights beside the adapter."""
    base = open_base(base_folder)
    (folder / "bf16").mkdir(parents=True)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    names = sorted(base.weights.names())
    write_shards(((name, base.weights.get(name).to(torch.bfloat16)) for name in names), folder / "bf16")
    base.config.save_pretrained(folder / "bf16")
    base.tokenizer.save_pretrained(folder / "bf16")
    return _with_manifest(folder, None)


def _rounded(base: Base) -> Parameters:
    plans = [
        plan_layer(2, 64),
        plan_layer(3, 64),
        plan_layer(4, 64, symmetric=True),
        four_and_two(torch.arange(1, 64, 2), 64),
    ]
    parameters: Parameters = {}
    layers = [layer for unit in units(base.config) for layer in unit.layers]
    for index, layer in enumerate(layers):
        w_NK = base.weights.get(f"{layer}.weight")
        plan: LayerPlan = plans[index % len(plans)] if w_NK.shape[1] == 64 else plan_layer(4, w_NK.shape[1])
        for parameter in quantize_layer(layer, w_NK, plan, clip_search=False):
            parameters[parameter.name] = parameter
    return parameters


def _with_manifest(folder: Path, quantization: object) -> Manifest:
    manifest = Manifest.model_validate(
        {
            "base_model": "local:toy",
            "spec_sha256": "0" * 64,
            "files": [entry.model_dump() for entry in describe_files(folder)],
            "quantization": quantization,
            "training": None,
            "stages": [],
            "scores": [],
            "environment": Environment(
                engine="0.1.0", torch="2.13.0", transformers="5.23.0", device="cpu", seed=0
            ).model_dump(),
        }
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return manifest
