"""What round-to-nearest promises, whatever the weights."""

import pytest
import torch
from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.affine import Affine, quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import Scheme
from torch import Tensor

SCHEMES = [
    Scheme(bits=bits, group_size=group_size, symmetric=symmetric)
    for bits, group_size in [(2, 64), (3, 128), (4, 128), (4, 32), (8, 64)]
    for symmetric in (False, True)
]


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
    # Half a step by rounding, up to half by the zero point's own rounding, and float16's share of the levels.
    slack = 1 + 2**-11 * scheme.top_code
    assert ((dequantize(affine, scheme) - w_NK).abs() <= step_NK * slack).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_clip_search_never_does_worse(scheme: Scheme) -> None:
    w_NK = normal(16, 256)
    assert squared_error(w_NK, scheme, clip_search=True) <= squared_error(w_NK, scheme, clip_search=False)


@pytest.mark.parametrize(
    ("bits", "best"),
    # Max 1960: what the best equidistant levels for all of a normal distribution leave of its variance. Levels chosen
    # for 64 draws can be a little better, those of a grid whose zero is a code a little worse.
    [(2, 0.1188), (3, 0.03744), (4, 0.01154)],
)
def test_clip_search_comes_near_the_best_levels_for_a_normal_distribution(bits: int, best: float) -> None:
    w_NK = normal(64, 1024)
    error = squared_error(w_NK, Scheme(bits=bits, group_size=64), clip_search=True)
    assert 0.6 * best < error / w_NK.square().sum().item() < 1.1 * best


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
    zero = scheme.zero_choices[0] if scheme.symmetric else 1
    codes_NK = torch.randint(0, scheme.top_code + 1, (4, 256), generator=torch.Generator().manual_seed(0))
    codes_NK[:, 0 :: scheme.group_size] = 0
    codes_NK[:, 1 :: scheme.group_size] = scheme.top_code
    w_NK = (codes_NK - zero) * 0.125
    assert torch.equal(dequantize(quantize(w_NK, scheme, clip_search=True), scheme), w_NK)


def test_symmetric_zeros_are_all_the_middle_code() -> None:
    affine = quantize(normal(4, 256) + 0.1, Scheme(bits=3, group_size=64, symmetric=True), clip_search=True)
    assert (affine.zero_NG == 4).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_search_minimises_the_error_where_it_matters(scheme: Scheme) -> None:
    w_NK = normal(32, 256)
    importance_K = torch.where(torch.arange(256) % 8 == 0, 100.0, 0.01)

    def important_error(affine: Affine) -> float:
        error_NK = dequantize(affine, scheme) - w_NK
        return (error_NK.square() * importance_K).sum().item()

    guided = quantize(w_NK, scheme, clip_search=True, importance_K=importance_K)
    blind = quantize(w_NK, scheme, clip_search=True)
    assert important_error(guided) < important_error(blind)


def test_equal_importance_changes_nothing() -> None:
    scheme, w_NK = Scheme(bits=3, group_size=64), normal(8, 256)
    guided = quantize(w_NK, scheme, clip_search=True, importance_K=torch.full((256,), 4.0))
    for ours, plain in zip(guided, quantize(w_NK, scheme, clip_search=True), strict=True):
        assert torch.equal(ours, plain)


def test_weights_too_large_for_a_float16_scale_stay_finite() -> None:
    scheme = Scheme(bits=2, group_size=64)
    assert dequantize(quantize(torch.full((2, 64), 1e9), scheme, clip_search=False), scheme).isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_refused_by_the_layers_name(bad: float) -> None:
    w_NK = normal(4, 128)
    w_NK[2, 5] = bad
    with pytest.raises(BadModel, match=r"layers\.7\.o \(4 x 128\) holds NaN or infinite"):
        quantize(w_NK, Scheme(bits=4, group_size=64), clip_search=True, name="layers.7.o")


def test_grids_with_float_zeros_are_never_made() -> None:
    with pytest.raises(BadModel, match="use integer zero points"):
        quantize(normal(4, 128), Scheme(bits=4, group_size=64, zero_kind="float"), clip_search=True)
