"""What round-to-nearest promises, whatever the weights."""

import pytest
import torch
from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.affine import Affine, quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import Scheme, scheme_for
from torch import Tensor

SCHEMES = [Scheme(bits=2, group_size=64), Scheme(bits=4, group_size=128), Scheme(bits=4, group_size=32)]


def normal(N: int, K: int) -> Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(0)) * 0.05


def dequantize(affine: Affine, scheme: Scheme) -> Tensor:
    return QuantParameter("w", scheme, affine).dequantize(torch.float32)


def squared_error(w_NK: Tensor, scheme: Scheme, *, clip_search: bool) -> float:
    affine = quantize(w_NK, scheme, clip_search=clip_search)
    return (dequantize(affine, scheme) - w_NK).square().sum().item()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_clipping_the_error_is_at_most_a_step(scheme: Scheme) -> None:
    w_NK = normal(8, 256)
    affine = quantize(w_NK, scheme, clip_search=False)
    step_NK = affine.scale_NG.float().repeat_interleave(scheme.group_size, dim=1)
    # Half a step by rounding, up to half by the zero point's own rounding, and float16's share of 15 levels.
    assert ((dequantize(affine, scheme) - w_NK).abs() <= step_NK * 1.02).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_clip_search_never_does_worse(scheme: Scheme) -> None:
    w_NK = normal(16, 256)
    assert squared_error(w_NK, scheme, clip_search=True) <= squared_error(w_NK, scheme, clip_search=False)


def test_two_bits_with_clip_search_come_near_the_best_four_levels() -> None:
    scheme = Scheme(bits=2, group_size=64)
    w_NK = normal(64, 1024)
    # Max 1960: four equidistant levels leave 0.1188 of a normal distribution's variance.
    relative = squared_error(w_NK, scheme, clip_search=True) / w_NK.square().sum().item()
    assert 0.09 < relative < 0.14


@pytest.mark.parametrize("scheme", SCHEMES)
def test_codes_zeros_and_scales_stay_in_range(scheme: Scheme) -> None:
    w_NK = torch.cat([normal(4, 256), normal(4, 256).abs(), -normal(4, 256).abs(), normal(4, 256) * 1e6])
    affine = quantize(w_NK, scheme, clip_search=True)
    low, high = scheme.zero_choices
    assert affine.codes_NK.max() <= scheme.top_code
    assert ((affine.zero_NG >= low) & (affine.zero_NG <= high)).all()
    assert (affine.scale_NG > 0).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zero_stays_exactly_zero(scheme: Scheme) -> None:
    w_NK = normal(4, 256)
    w_NK[:, ::3] = 0
    assert (dequantize(quantize(w_NK, scheme, clip_search=True), scheme)[:, ::3] == 0).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_all_zero_group_is_finite_and_zero(scheme: Scheme) -> None:
    assert (dequantize(quantize(torch.zeros(2, 256), scheme, clip_search=True), scheme) == 0).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_on_the_grid_come_back_exactly(scheme: Scheme) -> None:
    codes_NK = torch.randint(0, scheme.top_code + 1, (4, 256), generator=torch.Generator().manual_seed(0))
    codes_NK[:, 0 :: scheme.group_size] = 0
    codes_NK[:, 1 :: scheme.group_size] = scheme.top_code
    w_NK = (codes_NK - 1) * 0.125
    assert torch.equal(dequantize(quantize(w_NK, scheme, clip_search=True), scheme), w_NK)


@pytest.mark.parametrize(
    ("bits", "K", "group_size"), [(4, 1536, 128), (4, 576, 64), (4, 96, 32), (2, 576, 64), (2, 32, 32)]
)
def test_the_group_falls_back_to_a_size_that_divides(bits: int, K: int, group_size: int) -> None:
    assert scheme_for(bits, K).group_size == group_size


def test_a_width_that_no_group_divides_is_refused() -> None:
    with pytest.raises(BadModel, match="100 input features"):
        scheme_for(4, 100)


def test_bits_per_weight_count_scales_and_zeros() -> None:
    assert Scheme(bits=2, group_size=64).bits_per_weight == pytest.approx(2 + 18 / 64)
    assert Scheme(bits=4, group_size=128).bits_per_weight == pytest.approx(4 + 20 / 128)
