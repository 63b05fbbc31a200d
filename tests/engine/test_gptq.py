"""What error-compensated rounding promises: the textbook's codes, and outputs nearer than nearest rounding's."""

import pytest
import torch
from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.affine import Affine, quantize
from bitsmith_engine.quant.gptq import gptq, gptq_blocks
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import Scheme
from reference.gptq import compensated_codes, damped
from torch import Tensor

DAMP = 0.01
SCHEMES = [
    Scheme(bits=2, group_size=32),
    Scheme(bits=3, group_size=64),
    Scheme(bits=4, group_size=32),
    Scheme(bits=4, group_size=64, symmetric=True),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated_inputs(T: int, K: int) -> Tensor:
    """A few directions carry most of it, as in a language model."""
    strength_K = torch.linspace(0, -3, K).exp()
    return normal(T, K, seed=1) * strength_K @ normal(K, K, seed=2)


def dequantize(affine: Affine, scheme: Scheme) -> Tensor:
    return QuantParameter("w", scheme, affine).dequantize(torch.float32)


def output_error(x_TK: Tensor, w_NK: Tensor, affine: Affine, scheme: Scheme) -> Tensor:
    """Of each output feature, from the outputs themselves."""
    return (x_TK.double() @ (dequantize(affine, scheme) - w_NK).double().T).square().sum(0)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_codes_are_the_textbooks_on_the_grids_that_were_found(scheme: Scheme) -> None:
    w_NK, x_TK = normal(3, 128) * 0.05, correlated_inputs(400, 128)
    gram_KK = x_TK.T @ x_TK
    affine = gptq(w_NK, gram_KK, scheme, clip_search=True, damp=DAMP)
    scale_NK, zero_NK = (
        values.repeat_interleave(scheme.group_size, dim=1) for values in (affine.scale_NG, affine.zero_NG)
    )
    for n in range(3):
        expected = compensated_codes(w_NK[n], damped(gram_KK, DAMP), scale_NK[n], zero_NK[n], scheme.top_code)
        assert affine.codes_NK[n].tolist() == expected


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("clip_search", [True, False])
def test_inputs_without_correlation_leave_nothing_to_compensate(scheme: Scheme, clip_search: bool) -> None:
    w_NK = normal(16, 256) * 0.05
    affine = gptq(w_NK, torch.eye(256), scheme, clip_search=clip_search)
    for ours, nearest in zip(affine, quantize(w_NK, scheme, clip_search=clip_search), strict=True):
        assert torch.equal(ours, nearest)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_outputs_are_nearer_than_those_of_nearest_rounding(scheme: Scheme) -> None:
    w_NK, x_TK = normal(32, 256) * 0.05, correlated_inputs(1000, 256)
    affine = gptq(w_NK, x_TK.T @ x_TK, scheme, clip_search=True)
    nearest = quantize(w_NK, scheme, clip_search=True)
    ours, theirs = (output_error(x_TK, w_NK, found, scheme).sum() for found in (affine, nearest))
    assert ours < 0.5 * theirs


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_codes_zeros_and_scales_stay_in_range(scheme: Scheme) -> None:
    w_NK, x_TK = torch.cat([normal(4, 256), normal(4, 256).abs() * 1e3]), correlated_inputs(1000, 256)
    affine = gptq(w_NK, x_TK.T @ x_TK, scheme, clip_search=True)
    low, high = scheme.zero_choices
    assert affine.codes_NK.max() <= scheme.top_code
    assert ((affine.zero_NG >= low) & (affine.zero_NG <= high)).all()
    assert (affine.scale_NG > 0).all()
    assert affine.scale_NG.isfinite().all()


def test_inputs_that_are_always_zero_have_their_weights_rounded_to_nearest() -> None:
    scheme = Scheme(bits=4, group_size=32)
    w_NK, x_TK = normal(8, 64) * 0.05, correlated_inputs(500, 64)
    x_TK[:, [3, 40]] = 0
    affine = gptq(w_NK, x_TK.T @ x_TK, scheme, clip_search=False)
    for column in (3, 40):
        scale_N, zero_N = affine.scale_NG[:, column // 32].float(), affine.zero_NG[:, column // 32]
        nearest_N = ((w_NK[:, column] / scale_N).round() + zero_N).clamp(0, scheme.top_code)
        assert torch.equal(affine.codes_NK[:, column].float(), nearest_N)


def test_fewer_tokens_than_channels_are_enough() -> None:
    scheme = Scheme(bits=3, group_size=64)
    w_NK, x_TK = normal(16, 128) * 0.05, normal(5, 128, seed=1)
    affine = gptq(w_NK, x_TK.T @ x_TK, scheme, clip_search=True)
    nearest = quantize(w_NK, scheme, clip_search=True)
    ours, theirs = (output_error(x_TK, w_NK, found, scheme).sum() for found in (affine, nearest))
    assert ours < 0.1 * theirs


def test_a_gram_matrix_that_cannot_be_factored_is_damped_more() -> None:
    scheme = Scheme(bits=3, group_size=64)
    w_NK = normal(4, 64) * 0.05
    indefinite_KK = torch.ones(64, 64) * 3 - 2 * torch.eye(64)  # eigenvalues 190 and -2: no X has it
    affine = gptq(w_NK, indefinite_KK, scheme, clip_search=True)
    assert (dequantize(affine, scheme) - w_NK).abs().max() < 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_inputs_that_are_not_finite_are_refused(value: float) -> None:
    gram_KK = torch.eye(64)
    gram_KK[5, 7] = value
    with pytest.raises(BadModel, match="infinite or not a number"):
        gptq(normal(4, 64), gram_KK, Scheme(bits=4, group_size=64), clip_search=True)


def test_two_blocks_on_one_grid_are_one_layer() -> None:
    scheme = Scheme(bits=3, group_size=32)
    w_NK, x_TK = normal(8, 128) * 0.05, correlated_inputs(500, 128)
    gram_KK = x_TK.T @ x_TK
    whole = gptq(w_NK, gram_KK, scheme, clip_search=True)
    halves = [torch.arange(64), torch.arange(64, 128)]
    parts = gptq_blocks(w_NK, gram_KK, [scheme, scheme], halves, clip_search=True)
    for of_whole, *of_parts in zip(whole, *parts, strict=True):
        assert torch.equal(of_whole, torch.cat(of_parts, dim=1))


def test_a_narrow_block_makes_good_for_a_wide_one_and_itself() -> None:
    wide, narrow = Scheme(bits=4, group_size=32), Scheme(bits=2, group_size=64)
    w_NK, x_TK = normal(16, 128) * 0.05, correlated_inputs(500, 128)
    order_K = torch.randperm(128, generator=torch.Generator().manual_seed(3))
    columns = [order_K[:64], order_K[64:].sort().values]
    parts = gptq_blocks(w_NK, x_TK.T @ x_TK, [wide, narrow], columns, clip_search=True)

    def error(wide_part: Affine, narrow_part: Affine) -> Tensor:
        w_hat_NK = torch.empty_like(w_NK)
        w_hat_NK[:, columns[0]] = dequantize(wide_part, wide)
        w_hat_NK[:, columns[1]] = dequantize(narrow_part, narrow)
        return (x_TK @ (w_hat_NK - w_NK).T).square().sum()

    apart = [
        gptq(w_NK[:, own_K], x_TK[:, own_K].T @ x_TK[:, own_K], scheme, clip_search=True)
        for own_K, scheme in zip(columns, (wide, narrow), strict=True)
    ]
    nearest = [
        quantize(w_NK[:, own_K], scheme, clip_search=True)
        for own_K, scheme in zip(columns, (wide, narrow), strict=True)
    ]
    assert error(*parts) < error(*apart) < error(*nearest)


def test_a_group_of_zeros_stays_zero() -> None:
    scheme = Scheme(bits=2, group_size=64)
    w_NK, x_TK = normal(8, 128) * 0.05, correlated_inputs(500, 128)
    w_NK[:, :64] = 0
    affine = gptq(w_NK, x_TK.T @ x_TK, scheme, clip_search=True)
    assert (dequantize(affine, scheme)[:, :64] == 0).all()
