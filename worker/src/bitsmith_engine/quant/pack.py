"""Codes of 1 to 8 bits in bytes: the first code of a row in the lowest bits of its first byte.

The bits of a row's codes follow one another without gaps, so a 3-bit code may straddle two bytes. Each row starts a
new byte; a last byte that is not full is padded with zero bits. lcm(8, bits) bits make a word: C whole codes in P
whole bytes, and the pattern repeats.

Shape letters: N rows, K codes per row, P bytes per row (P = ceil(K * bits / 8)), W words per row.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def packed_width(K: int, bits: int) -> int:
    return -(-K * bits // 8)


def pack(codes_NK: Tensor, bits: int) -> Tensor:
    """uint8 (N, K) with values below 2**bits -> uint8 (N, P)."""
    N, K = codes_NK.shape
    codes_per_word, bytes_per_word = _word(bits)
    codes_NWC = F.pad(codes_NK, (0, -K % codes_per_word)).view(N, -1, codes_per_word)
    packed_NWP = torch.zeros(N, codes_NWC.shape[1], bytes_per_word, dtype=torch.uint8, device=codes_NK.device)
    for code in range(codes_per_word):
        byte, shift = divmod(code * bits, 8)
        packed_NWP[..., byte] |= codes_NWC[..., code] << shift  # what does not fit is shifted out of the byte
        if shift + bits > 8:
            packed_NWP[..., byte + 1] |= codes_NWC[..., code] >> (8 - shift)
    return packed_NWP.view(N, -1)[:, : packed_width(K, bits)].contiguous()


def unpack(packed_NP: Tensor, bits: int, K: int) -> Tensor:
    """The inverse of pack: uint8 (N, K)."""
    N, P = packed_NP.shape
    codes_per_word, bytes_per_word = _word(bits)
    packed_NWP = F.pad(packed_NP, (0, -P % bytes_per_word)).view(N, -1, bytes_per_word)
    codes_NWC = torch.empty(N, packed_NWP.shape[1], codes_per_word, dtype=torch.uint8, device=packed_NP.device)
    for code in range(codes_per_word):
        byte, shift = divmod(code * bits, 8)
        value_NW = packed_NWP[..., byte] >> shift
        if shift + bits > 8:
            value_NW |= packed_NWP[..., byte + 1] << (8 - shift)
        codes_NWC[..., code] = value_NW & ((1 << bits) - 1)
    return codes_NWC.view(N, -1)[:, :K].contiguous()


def _word(bits: int) -> tuple[int, int]:
    """(codes, bytes) after which the pattern repeats."""
    common = math.gcd(bits, 8)
    return 8 // common, bits // common
