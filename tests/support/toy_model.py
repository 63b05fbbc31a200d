"""A toy model that is a real one in every respect but size, and examples it can learn from."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "<end>"]
TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(SPECIAL + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers types it not
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<end>", chat_template=TEMPLATE
    )


def toy_config(**changes: Any) -> LlamaConfig:
    settings: dict[str, Any] = {
        "vocab_size": 259,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.1,
    }
    return LlamaConfig(**(settings | changes))


def save_toy_model(folder: Path, **changes: Any) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(toy_config(**changes)).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)


def write_examples(path: Path, count: int, *, offset: int = 0) -> None:
    """Questions about numbers, each with an answer of its own."""
    with path.open("w") as file:
        for number in range(offset, offset + count):
            answer = f"{number} is {'even' if number % 2 == 0 else 'odd'}"
            file.write(json.dumps({"prompt": f"{number}?", "completion": answer}) + "\n")
