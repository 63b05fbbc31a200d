"""Bit packing one bit at a time."""


def pack_row(codes: list[int], bits: int) -> list[int]:
    """The codes' bits in a row, least significant first, cut into bytes."""
    stream = [code >> bit & 1 for code in codes for bit in range(bits)]
    stream += [0] * (-len(stream) % 8)
    return [sum(stream[start + bit] << bit for bit in range(8)) for start in range(0, len(stream), 8)]


def unpack_row(row: list[int], bits: int, K: int) -> list[int]:
    """K codes from the bits of the bytes, least significant first."""
    stream = [byte >> bit & 1 for byte in row for bit in range(8)]
    return [sum(stream[index * bits + bit] << bit for bit in range(bits)) for index in range(K)]
