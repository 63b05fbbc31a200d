"""The kernels in use. There is one implementation so far: the reference."""

from bitsmith_engine.kernels.reference import dequantize

__all__ = ["dequantize"]
