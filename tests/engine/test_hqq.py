"""What the robust fit promises: never a worse one than where it starts, and a few outliers do not spoil the rest."""

import pytest
import torch
from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.affine import Affine, quantize
from bitsmith_engine.quant.hqq import hqq
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import Scheme
from torch import Tensor

SCHEMES = [
    Scheme(bits=2, group_size=64),
    Scheme(bits=3, group_size=64),
    Scheme(bits=4, group_size=128),
    Scheme(bits=4, group_size=32, symmetric=True),
]


def normal(N: int, K: int) -> Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(0)) * 0.05


def dequantize(affine: Affine, scheme: Scheme) -> Tensor:
    return QuantParameter("w", scheme, affine).dequantize(torch.float32)


def misfit(w_NK: Tensor, affine: Affine, scheme: Scheme) -> Tensor:
    """Of each group: what the method says it makes small."""
    miss_NK = (dequantize(affine, scheme) - w_NK).abs().double()
    return miss_NK.pow(0.7).view(len(w_NK), -1, scheme.group_size).sum(-1)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("clip_search", [True, False])
def test_no_group_fits_worse_than_its_start_and_most_fit_better(scheme: Scheme, clip_search: bool) -> None:
    w_NK = normal(32, 256)
    start_NG = misfit(w_NK, quantize(w_NK, scheme, clip_search=clip_search), scheme)
    fitted_NG = misfit(w_NK, hqq(w_NK, scheme, clip_search=clip_search), scheme)
    assert (fitted_NG <= start_NG * (1 + 1e-5)).all()
    assert (fitted_NG < start_NG * 0.999).float().mean() > 0.5


@pytest.mark.parametrize("bits", [2, 3])
def test_an_outlier_does_not_spoil_weights_that_lie_on_a_grid(bits: int) -> None:
    scheme = Scheme(bits=bits, group_size=64)
    codes_NK = torch.randint(0, scheme.top_code + 1, (64, 64), generator=torch.Generator().manual_seed(0))
    w_NK = (codes_NK - (scheme.top_code + 1) // 2) * 0.125
    w_NK[:, 7] *= 1.5
    found = {
        method: ((dequantize(affine, scheme) - w_NK).abs() < 0.01).float().mean().item()
        for method, affine in (
            ("hqq", hqq(w_NK, scheme, clip_search=True)),
            ("nearest", quantize(w_NK, scheme, clip_search=True)),
        )
    }
    assert found["hqq"] > 0.9
    assert found["hqq"] > found["nearest"] + 0.1


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_codes_zeros_and_scales_stay_in_range(scheme: Scheme) -> None:
    w_NK = torch.cat([normal(4, 256), normal(4, 256).abs(), -normal(4, 256).abs(), normal(4, 256) * 1e6])
    affine = hqq(w_NK, scheme, clip_search=True)
    low, high = scheme.zero_choices
    assert affine.codes_NK.max() <= scheme.top_code
    assert ((affine.zero_NG >= low) & (affine.zero_NG <= high)).all()
    assert (affine.scale_NG > 0).all()
    assert affine.scale_NG.isfinite().all()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_an_all_zero_group_is_zero(scheme: Scheme) -> None:
    w_NK = normal(2, 256)
    w_NK[:, :128] = 0
    assert (dequantize(hqq(w_NK, scheme, clip_search=True), scheme)[:, :128] == 0).all()


def test_a_damaged_weight_is_named() -> None:
    with pytest.raises(BadModel, match=r"layers\.3\.up .* holds NaN"):
        hqq(normal(2, 64) / 0, SCHEMES[0], clip_search=True, name="layers.3.up")
