"""Codes of 2 or 4 bits in bytes: the first code of a row in the lowest bits of its first byte.

Each row starts a new byte; a last byte that is not full is padded with zero bits.
Shape letters: N rows, K codes per row, P bytes per row (P = ceil(K * bits / 8)).
"""

import torch
from torch import Tensor


def packed_width(K: int, bits: int) -> int:
    return -(-K * bits // 8)


def pack(codes_NK: Tensor, bits: int) -> Tensor:
    """uint8 (N, K) with values below 2**bits -> uint8 (N, P)."""
    per_byte = 8 // bits
    N, K = codes_NK.shape
    padded_NP_per_byte = torch.nn.functional.pad(codes_NK, (0, packed_width(K, bits) * per_byte - K))
    columns = padded_NP_per_byte.view(N, -1, per_byte)
    packed_NP = columns[..., 0].clone()
    for position in range(1, per_byte):
        packed_NP |= columns[..., position] << (bits * position)
    return packed_NP


def unpack(packed_NP: Tensor, bits: int, K: int) -> Tensor:
    """The inverse of pack: uint8 (N, K)."""
    mask = (1 << bits) - 1
    columns = [(packed_NP >> shift) & mask for shift in range(0, 8, bits)]
    codes_NK = torch.stack(columns, dim=-1).flatten(1)[:, :K]
    return codes_NK.contiguous()
