"""What a grid's description promises: a group size that divides, and an honest count of bits."""

import pytest
import torch
from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.affine import Affine
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import Scheme, ZeroKind, scheme_for
from bitsmith_engine.quant.storage import packed_bytes


@pytest.mark.parametrize(("bits", "group_size"), [(2, 64), (3, 128), (4, 128), (8, 128)])
def test_each_width_has_a_group_size_it_prefers(bits: int, group_size: int) -> None:
    assert scheme_for(bits, 1536) == Scheme(bits=bits, group_size=group_size)


@pytest.mark.parametrize(
    ("bits", "K", "asked", "group_size"),
    [
        (4, 576, None, 64),
        (3, 96, None, 32),
        (2, 32, None, 32),
        (8, 576, 128, 64),
        (4, 1536, 32, 32),
        (2, 256, 128, 128),
    ],
)
def test_the_group_falls_back_to_a_size_that_divides(bits: int, K: int, asked: int | None, group_size: int) -> None:
    assert scheme_for(bits, K, group_size=asked).group_size == group_size


@pytest.mark.parametrize("K", [0, 100, 48])
def test_features_that_no_group_divides_are_refused(K: int) -> None:
    with pytest.raises(BadModel, match=f"{K} input features.*choose a base"):
        scheme_for(4, K)


@pytest.mark.parametrize("bits", [1, 5, 16])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(BadModel, match="use one of 2, 3, 4, 8"):
        scheme_for(bits, 128)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_grids_have_their_zero_in_the_middle(bits: int) -> None:
    middle = (2**bits) // 2
    assert Scheme(bits=bits, group_size=64, symmetric=True).zero_choices == (middle, middle)


def test_two_bit_zeros_are_one_or_two() -> None:
    assert Scheme(bits=2, group_size=64).zero_choices == (1, 2)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, 128])
@pytest.mark.parametrize(("symmetric", "zero_kind"), [(False, "integer"), (True, "integer"), (False, "float")])
def test_bits_per_weight_are_the_bits_that_storage_takes(
    bits: int, group_size: int, symmetric: bool, zero_kind: ZeroKind
) -> None:
    scheme = Scheme(bits=bits, group_size=group_size, symmetric=symmetric, zero_kind=zero_kind)
    N, K = 3, group_size * 8  # eight groups, so that their zero points fill whole bytes
    zero_NG = torch.ones(N, 8, dtype=torch.float16 if zero_kind == "float" else torch.uint8)
    codes_NK = torch.zeros(N, K, dtype=torch.uint8)
    parameter = QuantParameter("w", scheme, Affine(codes_NK, torch.ones(N, 8, dtype=torch.float16), zero_NG))
    assert scheme.bits_per_weight * N * K == 8 * sum(packed_bytes(parameter)) == parameter.bits_per_weight * N * K
