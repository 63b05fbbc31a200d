"""What measuring promises: the divergence that forward passes of the whole model show, kept for any later search."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsmith_engine.data.examples import Example, load_examples
from bitsmith_engine.errors import BadData
from bitsmith_engine.models.architecture import Unit, units
from bitsmith_engine.models.opening import Base, load_float, open_base
from bitsmith_engine.ports import Silent
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import scheme_for
from bitsmith_engine.runtime import choose_runtime, generator
from bitsmith_engine.search.divergence import divergences
from bitsmith_engine.search.fisher import second_order
from bitsmith_engine.search.measuring import measure_into
from bitsmith_engine.search.rounding import Grid
from bitsmith_engine.search.sensitivity import (
    CALIBRATION_TOKENS,
    SENSITIVITY_FILE,
    choose_calibration,
    load_channels,
    load_sensitivity,
)
from torch import Tensor

RUNTIME = choose_runtime("cpu")
GRID = Grid(group_size=None, symmetric=False, clip_search=True)


def examples_of(inputs: Path) -> list[Example]:
    tokenizer = open_base(inputs / "model").tokenizer
    return load_examples(inputs / "training.jsonl", tokenizer, max_length=64, observer=Silent())


def places(example: Example) -> list[int]:
    return [column for column in range(len(example.ids) - 1) if example.learned[column + 1]]


def rounding_errors(model: Any, unit: Unit, bits: int) -> dict[str, Tensor]:
    errors = {}
    for name in unit.layers:
        w_NK = model.get_submodule(name).weight.data.float()
        scheme = scheme_for(bits, w_NK.shape[1])
        parameter = QuantParameter(name, scheme, quantize(w_NK, scheme, clip_search=True))
        errors[name] = parameter.dequantize(torch.float32) - w_NK
    return errors


@contextmanager
def watched(model: Any, names: list[str]) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """What goes into and comes out of these linear layers of the whole model."""
    x: dict[str, Tensor] = {}
    y: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def keep(_: object, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            x[name], y[name] = arguments[0].detach(), output

        return model.get_submodule(name).register_forward_hook(keep)

    handles = [hook(name) for name in names]
    yield x, y
    for handle in handles:
        handle.remove()


def test_the_divergence_is_that_of_full_forward_passes(toy_inputs: Path) -> None:
    base = open_base(toy_inputs / "model")
    examples = examples_of(toy_inputs)[:3]
    found = divergences(base, examples, [2, 4], GRID, RUNTIME, Silent())
    whole = load_float(base, RUNTIME)
    for unit in units(base.config):
        for bits in (2, 4):
            damaged = load_float(base, RUNTIME)
            for name, error_NK in rounding_errors(damaged, unit, bits).items():
                damaged.get_submodule(name).weight.data += error_NK
            total, count = 0.0, 0
            for example in examples:
                ids = torch.tensor([example.ids])
                with torch.no_grad():
                    p, q = (model(input_ids=ids).logits[0].double().log_softmax(-1) for model in (whole, damaged))
                here = places(example)
                total += (p[here].exp() * (p[here] - q[here])).sum().item()
                count += len(here)
            assert found[unit.name][bits] == pytest.approx(total / count, rel=1e-3, abs=1e-7)


def test_going_layer_by_layer_gives_what_one_backward_pass_of_the_whole_model_gives(toy_inputs: Path) -> None:
    base, probes = open_base(toy_inputs / "model"), 2
    examples = examples_of(toy_inputs)[:3]
    found, channels = second_order(base, examples, [2, 4], GRID, RUNTIME, Silent(), seed=5, probes=probes)

    model = load_float(base, RUNTIME).requires_grad_(True)
    all_units = list(units(base.config))
    names = [name for unit in all_units for name in unit.layers]
    # The signs are drawn for the answer places of the longest example first, all places of a probe at once.
    ordered = sorted(examples, key=lambda example: -len(example.ids))
    count = sum(len(places(example)) for example in ordered)
    chance = generator(5)
    signs = [torch.randint(0, 2, (count, 259), generator=chance, dtype=torch.int8) * 2 - 1 for _ in range(probes)]
    damages = {(unit.name, bits): 0.0 for unit in all_units for bits in (2, 4)}
    by_channel = {(name, bits): torch.zeros(()) for name in names for bits in (2, 4)}
    start = 0
    for example in ordered:
        here = places(example)
        with watched(model, names) as (x, y):
            log_p_AV = model(input_ids=torch.tensor([example.ids])).logits[0, here].log_softmax(-1)
        for z_AV in signs:
            into = (log_p_AV.detach() / 2).exp() * z_AV[start : start + len(here)]
            gradients = dict(
                zip(
                    names,
                    torch.autograd.grad(log_p_AV, [y[name] for name in names], into, retain_graph=True),
                    strict=True,
                )
            )
            for unit in all_units:
                for bits in (2, 4):
                    errors = rounding_errors(model, unit, bits)
                    moved_T = torch.zeros(len(example.ids))
                    for name, error_NK in errors.items():
                        moved_T += torch.einsum("tn,tk,nk->t", gradients[name][0], x[name][0], error_NK)
                        weight_gradients_TNK = torch.einsum("tn,tk->tnk", gradients[name][0], x[name][0])
                        damage_K = (weight_gradients_TNK * error_NK).square().sum((0, 1)) / (2 * count * probes)
                        by_channel[name, bits] = by_channel[name, bits] + damage_K
                    damages[unit.name, bits] += (moved_T.square().sum() / (2 * count * probes)).item()
        start += len(here)

    assert [result.name for result in found] == [unit.name for unit in all_units]
    for unit, result in zip(all_units, found, strict=True):
        for bits in (2, 4):
            assert result.damages[bits] == pytest.approx(damages[unit.name, bits], rel=1e-3)
            squares = sum(error_NK.square().sum().item() for error_NK in rounding_errors(model, unit, bits).values())
            assert result.weight_errors[bits] == pytest.approx(squares, rel=1e-4)
    for (name, bits), expected_K in by_channel.items():
        torch.testing.assert_close(channels[name][bits], expected_K, rtol=1e-3, atol=1e-9)


def test_small_damage_is_the_divergence_of_one_tokens_errors_at_a_time(toy_inputs: Path) -> None:
    """The oracle is neither of second order nor random: it adds the error at one token, and looks at the answer."""
    base = open_base(toy_inputs / "model")
    example = examples_of(toy_inputs)[0]
    found, _ = second_order(base, [example], [8], GRID, RUNTIME, Silent(), seed=0, probes=64)
    model = load_float(base, RUNTIME)
    errors = {unit.name: rounding_errors(model, unit, 8) for unit in units(base.config)}
    model = model.double()
    T, here = len(example.ids), places(example)
    ids_TT = torch.tensor([example.ids]).expand(T, T)  # a copy of the example for each token whose outputs are changed
    is_changed_TT1 = torch.eye(T, dtype=torch.float64).unsqueeze(-1)

    def changed(error_NK: Tensor) -> Any:
        def change(_: object, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + is_changed_TT1 * (arguments[0] @ error_NK.double().T)

        return change

    with torch.no_grad():
        p = model(input_ids=ids_TT[:1]).logits[:, here].log_softmax(-1)
        for unit in found:
            handles = [
                model.get_submodule(name).register_forward_hook(changed(error_NK))
                for name, error_NK in errors[unit.name].items()
            ]
            q = model(input_ids=ids_TT).logits[:, here].log_softmax(-1)
            for handle in handles:
                handle.remove()
            expected = (p.exp() * (p - q)).sum().item() / len(here)
            assert unit.damages[8] == pytest.approx(expected, rel=0.15)


def test_wider_codes_do_less_damage_in_both_measures(toy_inputs: Path) -> None:
    base = open_base(toy_inputs / "model")
    examples = examples_of(toy_inputs)[:2]
    found, channels = second_order(base, examples, [2, 3, 4, 8], GRID, RUNTIME, Silent(), seed=0)
    true = divergences(base, examples, [2, 3, 4, 8], GRID, RUNTIME, Silent())
    for damages in [*(unit.damages for unit in found), *true.values()]:
        assert damages[2] > damages[3] > damages[4] > damages[8] >= 0
    for by_bits in channels.values():
        assert all(torch.all(damage_K >= 0) for damage_K in by_bits.values())
        assert by_bits[2].sum() > by_bits[4].sum()


def _measure(base: Base, inputs: Path, folder: Path, *, seed: int) -> None:
    folder.mkdir()
    measure_into(folder, base, examples_of(inputs)[:2], RUNTIME, Silent(), widths=(4, 2), grid=GRID, seed=seed)


def test_what_was_measured_is_kept_with_where_it_came_from(toy_inputs: Path, tmp_path: Path) -> None:
    base = open_base(toy_inputs / "model")
    examples = examples_of(toy_inputs)[:2]
    kept = measure_into(tmp_path, base, examples, RUNTIME, Silent(), widths=(4, 2), grid=GRID, seed=7)
    assert load_sensitivity(tmp_path) == kept
    assert (kept.measure, kept.widths, kept.seed, kept.samples) == ("fisher", (2, 4), 7, 2)
    assert kept.tokens == sum(len(example.ids) for example in examples)
    assert kept.answer_tokens == sum(len(places(example)) for example in examples)
    assert "2 layers, 64 hidden" in kept.base
    channels = load_channels(tmp_path)
    for unit in kept.units:
        for layer in unit.layers:
            assert {bits: damage_K.shape for bits, damage_K in channels[layer.name].items()} == {
                2: (layer.input_features,),
                4: (layer.input_features,),
            }


def test_the_divergence_can_be_what_is_kept(toy_inputs: Path, tmp_path: Path) -> None:
    base = open_base(toy_inputs / "model")
    examples = examples_of(toy_inputs)[:2]
    measure_into(tmp_path, base, examples, RUNTIME, Silent(), widths=(2,), grid=GRID, seed=0, measure="kl")
    kept = load_sensitivity(tmp_path)
    assert kept.measure == "kl"
    assert {unit.name: unit.damages for unit in kept.units} == divergences(
        base, examples, (2,), GRID, RUNTIME, Silent()
    )


def test_measuring_again_with_the_seed_gives_the_same_bytes(toy_inputs: Path, tmp_path: Path) -> None:
    base = open_base(toy_inputs / "model")
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        _measure(base, toy_inputs, tmp_path / name, seed=seed)
    one, two, other = ((tmp_path / name / SENSITIVITY_FILE).read_bytes() for name in ("one", "two", "other"))
    assert one == two != other


def test_a_folder_that_holds_no_measurement_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"sensitivity\.json is not a sensitivity measurement.*measure the base again"):
        load_sensitivity(tmp_path)
    with pytest.raises(BadData, match=r"channels\.safetensors is not"):
        load_channels(tmp_path)
    (tmp_path / SENSITIVITY_FILE).write_text('{"format": "bitsmith-sensitivity/2"}')
    with pytest.raises(BadData):
        load_sensitivity(tmp_path)


def test_calibration_keeps_to_both_limits(toy_inputs: Path) -> None:
    examples = examples_of(toy_inputs) * 20
    assert len(choose_calibration(examples, 4, seed=0)) == 4
    many = choose_calibration(examples, 512, seed=0)
    assert sum(len(example.ids) for example in many) <= CALIBRATION_TOKENS
    assert choose_calibration(examples, 4, seed=0) == choose_calibration(examples, 4, seed=0)
    assert choose_calibration(examples, 4, seed=0) != choose_calibration(examples, 4, seed=1)
