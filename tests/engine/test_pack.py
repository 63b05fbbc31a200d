"""What packing promises: every code comes back, and a byte holds what the layout says."""

import pytest
import torch
from bitsmith_engine.quant.pack import pack, packed_width, unpack
from hypothesis import given
from hypothesis import strategies as st
from reference.packing import pack_row


@st.composite
def codes(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    bits = draw(st.sampled_from([2, 4]))
    N, K = draw(st.integers(1, 5)), draw(st.integers(1, 67))
    rows = [draw(st.lists(st.integers(0, 2**bits - 1), min_size=K, max_size=K)) for _ in range(N)]
    return torch.tensor(rows, dtype=torch.uint8), bits


@given(codes())
def test_unpacking_gives_back_every_code(drawn: tuple[torch.Tensor, int]) -> None:
    codes_NK, bits = drawn
    assert torch.equal(unpack(pack(codes_NK, bits), bits, codes_NK.shape[1]), codes_NK)


@given(codes())
def test_bytes_hold_the_codes_lowest_bits_first(drawn: tuple[torch.Tensor, int]) -> None:
    codes_NK, bits = drawn
    assert pack(codes_NK, bits).tolist() == [pack_row(row, bits) for row in codes_NK.tolist()]


@pytest.mark.parametrize(("K", "bits", "width"), [(64, 2, 16), (64, 4, 32), (5, 2, 2), (3, 4, 2)])
def test_a_row_takes_whole_bytes(K: int, bits: int, width: int) -> None:
    assert packed_width(K, bits) == width == pack(torch.zeros(1, K, dtype=torch.uint8), bits).shape[1]
