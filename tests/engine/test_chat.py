"""What chatting promises: the bundle's own weights and words, whoever else is being answered meanwhile."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsmith_core.chat import ENGINE_LINES, Ask, Cancel, Delta, Done, Failed, Message, Prompt, Ready, Refused, Sampling
from bitsmith_core.chat import encode as encode_line
from bitsmith_engine.chat.generation import Generation, TooLong
from bitsmith_engine.chat.opening import ChatModel, open_chat
from bitsmith_engine.chat.packed import PackedLinear
from bitsmith_engine.chat.turns import Turns
from bitsmith_engine.errors import BadModel, OutOfSpace
from bitsmith_engine.export.bundle import load_bundle
from bitsmith_engine.models.opening import open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.quant.parameter import by_layer, dequantize_layer
from bitsmith_engine.runtime import choose_runtime
from pydantic import BaseModel
from toy_bundle import write_merged_bundle, write_native_bundle
from transformers import AutoModelForCausalLM, AutoTokenizer

RUNTIME = choose_runtime("cpu")
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def native(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("chat") / "native"
    write_native_bundle(toy_model, folder)
    return folder


@pytest.fixture(scope="module")
def chat(native: Path) -> ChatModel:
    return opened(native)


def opened(folder: Path, **changes: Any) -> ChatModel:
    settings: dict[str, Any] = {"context_tokens": 4096, "parallel": 2, "memory_bytes": None}
    return open_chat(folder, RUNTIME, **(settings | changes))


def asking(text: str = "7?", **changes: Any) -> Prompt:
    return Prompt.model_validate({"messages": [Message(role="user", content=text)], "max_tokens": 12, **changes})


def finished(generation: Generation) -> str:
    text = ""
    while generation.finish is None:
        text += generation.advance()
    return text


def said(chat: ChatModel, prompt: Prompt) -> str:
    return finished(Generation(chat, prompt))


def test_packed_layers_hold_the_trained_weights_bit_for_bit(chat: ChatModel, native: Path) -> None:
    layers = {name: module for name, module in chat.model.named_modules() if isinstance(module, PackedLinear)}
    expected = by_layer(load_bundle(native).parameters.values())
    assert set(layers) == set(expected)
    for name, blocks in expected.items():
        layers[name].kept_NK = None
        assert torch.equal(layers[name].weight(), dequantize_layer(blocks, torch.float32))
        layers[name].keep_unpacked()


def test_the_bytes_of_packed_layers_are_those_of_their_tensors(native: Path) -> None:
    chat = opened(native, memory_bytes=10**9)
    layers = [module for module in chat.model.modules() if isinstance(module, PackedLinear)]
    assert chat.packed_bytes == sum(layer.packed_bytes for layer in layers) > 0


def test_a_greedy_answer_is_that_of_transformers_generate(chat: ChatModel, native: Path) -> None:
    base = open_base(native)
    reference: Any = load_quantized(base, load_bundle(native).parameters, RUNTIME)
    messages = [{"role": "user", "content": "7?"}]
    ids: Any = base.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    output = reference.generate(ids, max_new_tokens=12, do_sample=False)
    expected = base.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert said(chat, asking(sampling=GREEDY)) == expected


def test_merged_adapters_answer_as_transformers_does(toy_model: Path, tmp_path: Path) -> None:
    write_merged_bundle(toy_model, tmp_path / "merged")
    plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged" / "bf16", dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "merged" / "bf16")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "7?"}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    output = plain.generate(ids, max_new_tokens=12, do_sample=False)
    expected = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert said(opened(tmp_path / "merged"), asking(sampling=GREEDY)) == expected


def test_a_seed_decides_the_answer(chat: ChatModel) -> None:
    first = said(chat, asking(sampling={"seed": 1}))
    assert said(chat, asking(sampling={"seed": 1})) == first
    assert said(chat, asking(sampling={"seed": 2})) != first


def test_memory_changes_nothing_but_speed(native: Path, chat: ChatModel) -> None:
    smallest = opened(native, memory_bytes=None)
    for module in smallest.model.modules():
        if isinstance(module, PackedLinear):
            module.kept_NK = None
    prompt = asking(sampling={"seed": 5})
    assert said(smallest, prompt) == said(chat, prompt)


def test_unpacked_weights_fill_what_is_allowed_and_no_more(native: Path) -> None:
    everything = opened(native)
    least = everything.memory_bytes - sum(
        module.unpacked_bytes for module in everything.model.modules() if isinstance(module, PackedLinear)
    )
    tight = opened(native, memory_bytes=least + 20_000)
    kept = [m for m in tight.model.modules() if isinstance(m, PackedLinear) and m.kept_NK is not None]
    assert len(kept) == 1  # the first, 64 x 64 in float32
    assert least < tight.memory_bytes <= least + 20_000


def test_a_model_that_does_not_fit_says_what_it_needs(native: Path) -> None:
    with pytest.raises(OutOfSpace, match=r"needs \d+ bytes for its weights"):
        opened(native, memory_bytes=1000)


def test_an_answer_ends_with_the_models_end_token_which_is_not_shown(chat: ChatModel) -> None:
    ids: list[int] = []

    class Recorder(Generation):
        def _read(self, now: list[int]) -> torch.Tensor:
            ids.extend(now)
            return super()._read(now)

    prompt = asking(sampling=GREEDY)
    recorder = Recorder(chat, prompt)
    whole = finished(recorder)
    fifth = ids[recorder.prompt_tokens + 4]
    early = Generation(replace(chat, stop_ids=frozenset({fifth})), prompt)
    text = finished(early)
    first = ids[recorder.prompt_tokens :].index(fifth)
    assert early.finish == "stop"
    assert early.completion_tokens == first + 1
    assert text == chat.tokenizer.decode(ids[recorder.prompt_tokens :][:first])
    assert whole.startswith(text.rstrip("\ufffd"))


def test_the_end_of_a_turn_is_known_from_tokenizer_and_template(chat: ChatModel) -> None:
    assert chat.stop_ids == {chat.tokenizer.convert_tokens_to_ids("<end>")}


def test_stop_sequences_end_an_answer_and_are_not_shown(chat: ChatModel) -> None:
    whole = said(chat, asking(sampling=GREEDY))
    stop = whole[3:6]
    generation = Generation(chat, asking(sampling=GREEDY, stop=[stop, "never said"]))
    assert finished(generation) == whole[: whole.index(stop)]
    assert generation.finish == "stop"


def test_max_tokens_and_the_context_cut_an_answer(chat: ChatModel, native: Path) -> None:
    generation = Generation(chat, asking(max_tokens=3))
    finished(generation)
    assert (generation.finish, generation.completion_tokens) == ("length", 3)
    small = opened(native, context_tokens=30)
    generation = Generation(small, asking(max_tokens=None))
    finished(generation)
    assert generation.finish == "length"
    assert generation.prompt_tokens + generation.completion_tokens == 30


def test_a_conversation_as_long_as_the_context_is_refused_with_numbers(native: Path) -> None:
    with pytest.raises(TooLong, match="has 23 tokens, and this model's context holds 20"):
        Generation(opened(native, context_tokens=20), asking())


def test_a_long_prompt_is_read_in_pieces_and_means_the_same(chat: ChatModel, native: Path) -> None:
    text = "7?" * 110  # 240 tokens of 256
    base = open_base(native)
    reference: Any = load_quantized(base, load_bundle(native).parameters, RUNTIME)
    ids: Any = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    with torch.no_grad():
        expected = reference(input_ids=ids).logits[0, -1]
    generation = Generation(chat, asking(text))
    pieces = [ids[0, :100].tolist(), ids[0, 100:].tolist()]
    for piece in pieces:
        logits = generation._read(piece)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def collected(chat: ChatModel, parallel: int, *requests: Ask | Cancel) -> list[BaseModel]:
    lines: list[BaseModel] = []
    turns = Turns(chat, parallel=parallel, emit=lines.append)
    for request in requests:
        turns.take(request)
    while not turns.is_idle:
        turns.round()
    return lines


def texts_of(lines: list[BaseModel]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for line in lines:
        if isinstance(line, Delta):
            texts[line.id] = texts.get(line.id, "") + line.text
    return texts


def test_answers_written_in_turns_are_those_written_alone(chat: ChatModel) -> None:
    prompts = {str(n): asking(f"{n}?", sampling={"seed": n}) for n in range(4)}
    lines = collected(chat, 3, *(Ask(id=id_, prompt=prompt) for id_, prompt in prompts.items()))
    assert texts_of(lines) == {id_: said(chat, prompt) for id_, prompt in prompts.items()}
    order = [line.id for line in lines if isinstance(line, Delta)]
    assert order.index("1") < len(order) - order[::-1].index("0")  # the second began before the first ended
    assert [line.id for line in lines if isinstance(line, Done)][-1] == "3"  # it waited for its turn


def test_a_cancelled_answer_ends_and_the_others_go_on(chat: ChatModel) -> None:
    asks = [Ask(id=id_, prompt=asking(sampling={"seed": 1})) for id_ in "abc"]
    lines: list[BaseModel] = []
    turns = Turns(chat, parallel=2, emit=lines.append)
    for ask in asks:
        turns.take(ask)
    turns.round()
    for id_ in ("a", "c", "unknown"):
        turns.take(Cancel(id=id_))
    while not turns.is_idle:
        turns.round()
    endings = {line.id: line for line in lines if isinstance(line, Done)}
    assert {id_: done.finish for id_, done in endings.items()} == {"a": "cancelled", "b": "length", "c": "cancelled"}
    assert endings["a"].completion_tokens == 1
    assert texts_of(lines)["b"] == said(chat, asks[1].prompt)


def test_a_prompt_that_cannot_be_answered_is_refused_and_the_next_one_answered(chat: ChatModel) -> None:
    long, good = Ask(id="long", prompt=asking("?" * 300)), Ask(id="good", prompt=asking())
    lines = collected(chat, 2, long, good)
    assert isinstance(lines[0], Refused)
    assert (lines[0].id, lines[0].code) == ("long", "context_length_exceeded")
    assert isinstance(lines[-1], Done)
    assert lines[-1].id == "good"


def damaged_codes(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 64)


def missing_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def another_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))


@pytest.mark.parametrize("damage", [damaged_codes, missing_config, another_model])
def test_a_damaged_bundle_is_refused(toy_model: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_native_bundle(toy_model, tmp_path / "bundle")
    damage(tmp_path / "bundle")
    with pytest.raises(BadModel):
        opened(tmp_path / "bundle")


def run(folder: Path, *lines: BaseModel | bytes) -> tuple[int, list[BaseModel]]:
    sent = b"".join(line if isinstance(line, bytes) else encode_line(line) for line in lines)
    program = [sys.executable, "-m", "bitsmith_engine.chat", str(folder), "--device", "cpu"]
    result = subprocess.run(program, input=sent, capture_output=True, check=False, timeout=120)
    return result.returncode, [ENGINE_LINES.validate_json(line) for line in result.stdout.splitlines()]


def test_the_program_answers_what_it_was_asked_before_its_input_ended(native: Path, chat: ChatModel) -> None:
    prompts = {id_: asking(text, sampling={"seed": 3}) for id_, text in (("a", "7?"), ("b", "8?"))}
    status, lines = run(native, *(Ask(id=id_, prompt=prompt) for id_, prompt in prompts.items()), b"nonsense\n")
    assert status == 0
    assert isinstance(lines[0], Ready)
    assert lines[0].context_tokens == 256
    assert texts_of(lines) == {id_: said(chat, prompt) for id_, prompt in prompts.items()}
    assert {line.id: line.completion_tokens for line in lines if isinstance(line, Done)} == {"a": 12, "b": 12}


def test_the_program_says_why_it_cannot_open_a_folder(tmp_path: Path) -> None:
    status, lines = run(tmp_path)
    assert status == 1
    assert [type(line) for line in lines] == [Failed]
