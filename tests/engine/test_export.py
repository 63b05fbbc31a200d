"""What a bundle promises: its reader gives back the trained weights, and transformers loads the plain copy unaided."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsmith_core.bundle import Manifest, describe_files
from bitsmith_core.wire import Stage
from bitsmith_engine import pipeline
from bitsmith_engine.export.bundle import load_bundle
from bitsmith_engine.export.shards import write_shards
from bitsmith_engine.models.opening import open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.quant.storage import load_parameters
from bitsmith_engine.runtime import choose_runtime
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.engine.conftest import toy_spec

RUNTIME = choose_runtime("cpu")


@pytest.fixture(scope="module")
def out(toy_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("out")
    pipeline.run(toy_spec(), toy_inputs, folder, lambda line: None, lambda: False)
    return folder


def test_the_reader_gives_the_trained_weights_bit_for_bit(out: Path) -> None:
    trained = load_parameters(out / "stages" / Stage.TRAINING, torch.device("cpu"))
    bundle = load_bundle(out / "artifacts")
    assert list(bundle.parameters) == list(trained)
    for name, parameter in trained.items():
        assert torch.equal(bundle.parameters[name].dequantize(torch.float32), parameter.dequantize(torch.float32))
    assert set(bundle.rest) == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        *(f"model.layers.{depth}.{norm}_layernorm.weight" for depth in (0, 1) for norm in ("input", "post_attention")),
    }


def test_plain_transformers_loads_the_bf16_copy_with_the_same_logits(out: Path, toy_inputs: Path) -> None:
    plain: Any = AutoModelForCausalLM.from_pretrained(out / "artifacts" / "bf16", dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(out / "artifacts" / "bf16")
    trained = load_parameters(out / "stages" / Stage.TRAINING, torch.device("cpu"))
    ours = load_quantized(open_base(toy_inputs / "model"), trained, RUNTIME)

    messages = [{"role": "user", "content": "7?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    with torch.no_grad():
        theirs, expected = plain(input_ids=ids).logits, ours(input_ids=ids).logits
    # The copy's weights are rounded to bfloat16: 8 bits of mantissa.
    torch.testing.assert_close(theirs, expected, rtol=0.02, atol=0.02 * expected.abs().max().item())
    for name, parameter in trained.items():
        weight = plain.get_parameter(f"{name}.weight")
        assert torch.equal(weight, parameter.dequantize(torch.bfloat16).float())


def test_the_manifest_lists_every_file_and_counts_every_bit(out: Path) -> None:
    artifacts = out / "artifacts"
    manifest = Manifest.model_validate_json((artifacts / "manifest.json").read_bytes())
    assert manifest.files == describe_files(artifacts)
    names = {entry.path for entry in manifest.files}
    assert {"model.safetensors", "quantization.json", "config.json", "tokenizer.json", "evals.json"} <= names
    assert "bf16/model.safetensors" in names

    facts = manifest.quantization
    assert facts is not None
    with safe_open(artifacts / "model.safetensors", framework="pt") as file:
        stored = {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118 - not a dict
    packed = {name: size for name, size in stored.items() if name.endswith((".codes", ".scales", ".zeros"))}
    codes = {name: size for name, size in packed.items() if name.endswith(".codes")}
    assert sum(stored.values()) == facts.model_bytes
    assert sum(packed.values()) == facts.quantized_bytes
    assert sum(codes.values()) * 8 / facts.quantized_weights == pytest.approx(facts.bpw_codes)
    assert facts.bpw_codes <= 3.0 < facts.bpw_effective
    assert {layer.bits for layer in facts.layers} == {2, 3, 4}
    assert all(layer.sensitivity is not None for layer in facts.layers)
    assert {score.subject for score in manifest.scores} == {"float", "quantized", "qsft"}
    assert len({(score.task, score.comparable_key) for score in manifest.scores}) == 2


def test_large_models_are_written_in_shards_that_transformers_reads(tmp_path: Path, toy_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(toy_model, dtype=torch.float32)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    total = write_shards(state.items(), tmp_path, shard_bytes=50_000)
    assert total == sum(tensor.nbytes for tensor in state.values())
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    (tmp_path / "config.json").write_bytes((toy_model / "config.json").read_bytes())
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert all(torch.equal(tensor, again.get_parameter(name)) for name, tensor in state.items())
