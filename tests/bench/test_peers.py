"""What the bench's own baselines promise: they stay on their grid, and GPTQ beats rounding where it should."""

import pytest
import torch
from peers.gptq import quantize_columns
from peers.ptq import PEERS, bits_per_weight
from peers.rounding import Grid, round_to_nearest
from torch import Tensor

N, K, T = 16, 128, 512

grids = pytest.mark.parametrize("grid", [Grid(bits=2, group_size=64), Grid(bits=4, group_size=32)], ids=str)


def random(*shape: int, seed: int) -> Tensor:
    values: Tensor = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values


def levels_used(w_NK: Tensor, grid: Grid) -> int:
    return max(len(group.unique()) for group in w_NK.reshape(-1, grid.group_size))


def inputs() -> Tensor:
    """Correlated features, as a layer's inputs are."""
    x_TK: Tensor = random(T, K, seed=1) @ random(K, K, seed=2) / K**0.5
    return x_TK


@grids
def test_rounding_errs_by_at_most_half_a_step_and_keeps_zero(grid: Grid) -> None:
    w_NK = random(N, K, seed=0)
    w_NK[:, 5] = 0.0
    rounded_NK = round_to_nearest(w_NK, grid)
    w_NGS = w_NK.view(N, -1, grid.group_size)
    step_NG1 = (w_NGS.amax(-1, keepdim=True) - w_NGS.amin(-1, keepdim=True)) / (2**grid.bits - 1)
    # The zero point is rounded too, so that the ends of the range may lie half a step outside of the grid.
    assert ((rounded_NK.view_as(w_NGS) - w_NGS).abs() <= step_NG1 * 1.01).all()
    assert (rounded_NK[:, 5] == 0).all()
    assert levels_used(rounded_NK, grid) <= 2**grid.bits


@grids
def test_gptq_stays_on_the_grid_and_lowers_the_error_of_the_output(grid: Grid) -> None:
    w_NK, x_TK = random(N, K, seed=0), inputs()
    found_NK = quantize_columns(w_NK, 2 * x_TK.T @ x_TK, grid)
    plain_NK = round_to_nearest(w_NK, grid)
    error, plain_error = ((x_TK @ (w - w_NK).T).square().sum() for w in (found_NK, plain_NK))
    assert levels_used(found_NK, grid) <= 2**grid.bits
    assert error < 0.7 * plain_error


@grids
def test_gptq_on_uncorrelated_inputs_is_rounding(grid: Grid) -> None:
    w_NK = random(N, K, seed=0)
    torch.testing.assert_close(quantize_columns(w_NK, torch.eye(K), grid), round_to_nearest(w_NK, grid))


def test_gptq_leaves_its_arguments_alone() -> None:
    w_NK, hessian_KK = random(N, K, seed=0), torch.eye(K)
    quantize_columns(w_NK, hessian_KK, Grid(bits=4, group_size=32))
    assert torch.equal(w_NK, random(N, K, seed=0))
    assert torch.equal(hessian_KK, torch.eye(K))


def test_bits_count_scales_and_zero_points() -> None:
    maps = {"a": Grid(bits=2, group_size=64), "b": Grid(bits=4, group_size=128)}
    weights = {"a": 300, "b": 100}
    integer = (300 * (2 + 18 / 64) + 100 * (4 + 20 / 128)) / 400
    assert bits_per_weight(PEERS["gptq"], maps, weights) == pytest.approx(integer)
    floating = (300 * (2 + 32 / 64) + 100 * (4 + 20 / 128)) / 400
    assert bits_per_weight(PEERS["hqq"], maps, weights) == pytest.approx(floating)
