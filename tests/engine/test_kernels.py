"""What dequantizing promises: (code - zero) * scale, rounded once, for any shape, width and type."""

from fractions import Fraction

import pytest
import torch
from bitsmith_engine import kernels
from torch import Tensor


def grid(bits: int, N: int, G: int, S: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(bits)
    codes_NK = torch.randint(0, 2**bits, (N, G * S), dtype=torch.uint8, generator=random)
    scale_NG = torch.rand(N, G, generator=random).half() + 2**-10
    return codes_NK, scale_NG, torch.randint(0, 2**bits, (N, G), dtype=torch.uint8, generator=random)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("N", "G", "S"), [(1, 1, 1), (3, 1, 32), (5, 3, 7), (2, 9, 64), (7, 2, 33)])
def test_every_weight_is_exact_in_float32(bits: int, N: int, G: int, S: int) -> None:
    codes_NK, scale_NG, zero_NG = grid(bits, N, G, S)
    w_NK = kernels.dequantize(codes_NK, scale_NG, zero_NG, torch.float32)
    for n in range(N):
        for k in range(G * S):
            level = int(codes_NK[n, k]) - int(zero_NG[n, k // S])
            assert Fraction(w_NK[n, k].item()) == level * Fraction(scale_NG[n, k // S].item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_narrower_types_are_rounded_once(bits: int, dtype: torch.dtype) -> None:
    parts = grid(bits, 6, 3, 32)
    exact_NK = kernels.dequantize(*parts, torch.float32)
    assert torch.equal(kernels.dequantize(*parts, dtype), exact_NK.to(dtype))


def test_a_float_zero_point_lies_between_the_codes() -> None:
    codes_NK = torch.tensor([[0, 1, 2, 3]], dtype=torch.uint8)
    scale_NG, zero_NG = torch.tensor([[0.5]], dtype=torch.float16), torch.tensor([[1.25]], dtype=torch.float16)
    w_NK = kernels.dequantize(codes_NK, scale_NG, zero_NG, torch.float32)
    assert w_NK.tolist() == [[-0.625, -0.125, 0.375, 0.875]]


@pytest.mark.parametrize("bits", [2, 8])
def test_rows_that_lie_apart_in_memory_are_read_as_they_are(bits: int) -> None:
    codes_NK, scale_NG, zero_NG = grid(bits, 8, 2, 32)
    every_other = kernels.dequantize(codes_NK[::2], scale_NG[::2], zero_NG[::2], torch.float32)
    assert torch.equal(every_other, kernels.dequantize(codes_NK, scale_NG, zero_NG, torch.float32)[::2])


def test_the_arguments_stay_as_they_were() -> None:
    parts = grid(4, 4, 2, 32)
    copies = [part.clone() for part in parts]
    kernels.dequantize(*parts, torch.float32).zero_()
    assert all(torch.equal(part, copy) for part, copy in zip(parts, copies, strict=True))


def test_the_gradient_of_log_scales_is_that_of_autograd() -> None:
    random = torch.Generator().manual_seed(0)
    codes_NK = torch.randint(0, 16, (3, 128), generator=random, dtype=torch.uint8)
    zero_NG = torch.randint(0, 16, (3, 2), generator=random, dtype=torch.uint8)
    log_scale_NG = torch.randn(3, 2, generator=random).half().float().requires_grad_()
    grad_NK = torch.randn(3, 128, generator=random)
    w_NGS = (codes_NK.view(3, 2, 64).float() - zero_NG.unsqueeze(-1)) * log_scale_NG.exp().unsqueeze(-1)
    (w_NGS.view(3, 128) * grad_NK).sum().backward()  # type: ignore[no-untyped-call]
    found_NG = kernels.log_scale_gradient(codes_NK, log_scale_NG.detach().exp(), zero_NG, grad_NK)
    torch.testing.assert_close(found_NG, log_scale_NG.grad)
