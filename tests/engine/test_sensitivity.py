"""What measuring promises: the divergence a full forward pass would show, and a model left as it was."""

from pathlib import Path

import pytest
import torch
from bitsmith_engine.data.examples import Example, load_examples
from bitsmith_engine.models.architecture import units
from bitsmith_engine.models.opening import load_float, open_base
from bitsmith_engine.ports import Silent
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import scheme_for
from bitsmith_engine.runtime import choose_runtime
from bitsmith_engine.search.sensitivity import CALIBRATION_TOKENS, choose_calibration, measure


def examples_of(inputs: Path) -> list[Example]:
    tokenizer = open_base(inputs / "model").tokenizer
    return load_examples(inputs / "training.jsonl", tokenizer, max_length=64, observer=Silent())


def test_the_damage_is_the_divergence_of_full_forward_passes(toy_inputs: Path) -> None:
    base, runtime = open_base(toy_inputs / "model"), choose_runtime("cpu")
    examples = examples_of(toy_inputs)[:3]
    all_units = list(units(base.config))
    before = load_float(base, runtime)
    measured = load_float(base, runtime)
    found = measure(measured, all_units, examples, runtime, Silent(), clip_search=True)

    for unit, result in zip(all_units, found, strict=True):
        damaged = load_float(base, runtime)
        for name in unit.layers:
            weight = damaged.get_submodule(name).weight
            scheme = scheme_for(2, weight.shape[1])
            affine = quantize(weight.data, scheme, clip_search=True)
            weight.data = QuantParameter(name, scheme, affine).dequantize(torch.float32)
        total, places = 0.0, 0
        for example in examples:
            ids = torch.tensor([example.ids])
            with torch.no_grad():
                p, q = (model(input_ids=ids).logits[0].double().log_softmax(-1) for model in (before, damaged))
            for column in range(len(example.ids) - 1):
                if example.learned[column + 1]:
                    total += (p[column].exp() * (p[column] - q[column])).sum().item()
                    places += 1
        assert result.damage_2 == pytest.approx(total / places, rel=1e-3, abs=1e-7)
        assert 0 <= result.damage_4 < result.damage_2

    for name, parameter in before.named_parameters():
        assert torch.equal(parameter, measured.get_parameter(name))


def test_calibration_keeps_to_both_limits(toy_inputs: Path) -> None:
    examples = examples_of(toy_inputs) * 20
    assert len(choose_calibration(examples, 4, seed=0)) == 4
    many = choose_calibration(examples, 512, seed=0)
    assert sum(len(example.ids) for example in many) <= CALIBRATION_TOKENS
    assert choose_calibration(examples, 4, seed=0) == choose_calibration(examples, 4, seed=0)
    assert choose_calibration(examples, 4, seed=0) != choose_calibration(examples, 4, seed=1)
