"""Where and in which precision a run computes, chosen by what the machine can do."""

import resource
import sys
from dataclasses import dataclass
from typing import Literal

import torch

from bitsmith_engine.errors import NoDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    device: torch.device
    compute_dtype: torch.dtype

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return f"{name}, {str(self.compute_dtype).removeprefix('torch.')}"


def choose_runtime(wanted: Literal["auto", "cpu", "cuda"]) -> Runtime:
    """The device the spec wants and the fastest precision that it computes natively.

    Raises:
        NoDevice: cuda was asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise NoDevice(
            "resources.device is cuda, but this worker sees no CUDA device; "
            "run the job on a GPU worker, or set resources.device to auto or cpu"
        )
    if has_cuda and wanted != "cpu":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Runtime(device=torch.device("cuda"), compute_dtype=torch.bfloat16 if native else torch.float32)
    return Runtime(device=torch.device("cpu"), compute_dtype=torch.bfloat16 if _cpu_has_bf16() else torch.float32)


def _cpu_has_bf16() -> bool:
    # Without the instructions torch emulates bf16 products, 200 times slower than float32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def generator(seed: int) -> torch.Generator:
    """Random numbers of one purpose. Always on the CPU, so that a GPU draws the same ones."""
    return torch.Generator().manual_seed(seed)


def peak_memory_bytes(runtime: Runtime) -> int:
    """The most memory this process held so far: of the device on a GPU, resident on a CPU."""
    if runtime.device.type == "cuda":
        return torch.cuda.max_memory_allocated(runtime.device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere but on macOS
