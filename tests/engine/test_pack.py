"""What packing promises: every code comes back, and a byte holds what the layout says."""

import pytest
import torch
from bitsmith_engine.quant.pack import pack, packed_width, unpack
from hypothesis import given
from hypothesis import strategies as st
from reference.packing import pack_row, unpack_row


@st.composite
def codes(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    bits = draw(st.sampled_from([1, 2, 3, 4, 5, 8]))
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


@pytest.mark.parametrize(
    ("K", "bits", "width"),
    [(64, 2, 16), (64, 4, 32), (64, 3, 24), (64, 8, 64), (5, 2, 2), (3, 4, 2), (3, 3, 2), (9, 3, 4)],
)
def test_a_row_takes_whole_bytes(K: int, bits: int, width: int) -> None:
    assert packed_width(K, bits) == width == pack(torch.zeros(1, K, dtype=torch.uint8), bits).shape[1]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_any_bytes_unpack_to_the_codes_their_bits_spell(bits: int) -> None:
    packed_NP = torch.randint(0, 256, (3, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits))
    K = 24 * 8 // bits
    assert unpack(packed_NP, bits, K).tolist() == [unpack_row(row, bits, K) for row in packed_NP.tolist()]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_padding_bits_are_zero(bits: int) -> None:
    packed_NP = pack(torch.full((1, 5), 2**bits - 1, dtype=torch.uint8), bits)
    assert sum(byte.bit_count() for byte in packed_NP[0].tolist()) == 5 * bits


def test_a_slice_of_columns_packs_like_its_copy() -> None:
    codes_NK = torch.randint(0, 8, (4, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pack(codes_NK[:, 3:27], 3), pack(codes_NK[:, 3:27].clone(), 3))
