"""Where and in which precision a run computes, and which processes compute it together."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, distributed

from bitsmith_engine.errors import NoDevice, RankLost


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    device: torch.device
    compute_dtype: torch.dtype

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return f"{name}, {str(self.compute_dtype).removeprefix('torch.')}"


def choose_runtime(wanted: Literal["auto", "cpu", "cuda"], *, local_rank: int = 0) -> Runtime:
    """The device the spec wants and the fastest precision that it computes natively.

    Args:
        local_rank: which of the machine's GPUs, when every process of a run has one of its own.

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
        if local_rank >= (there := torch.cuda.device_count()):
            raise NoDevice(
                f"process {local_rank} of this machine has no GPU of its own: there are {there}; "
                "set BITSMITH_WORKER_PROCESSES to that at most"
            )
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return Runtime(device=device, compute_dtype=torch.bfloat16 if native else torch.float32)
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


class Ranks(Protocol):
    """The processes of a data-parallel run, numbered 0 .. size - 1. Every method must be called by all, in one order.

    What a method gives is the same, bit for bit, on every rank.
    """

    rank: int
    size: int

    def sum_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks."""

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Everybody's tensor, by rank; all have one shape."""

    def gather_ragged(self, tensor_A: Tensor) -> list[Tensor]:
        """Everybody's one-dimensional tensor, by rank, each of its own length."""

    def broadcast_(self, tensor: Tensor, source: int = 0) -> None:
        """Replace a tensor by that of one rank."""


class Single:
    """The only process of its run."""

    rank = 0
    size = 1

    def sum_(self, tensor: Tensor) -> None:
        pass

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return [tensor]

    def gather_ragged(self, tensor_A: Tensor) -> list[Tensor]:
        return [tensor_A]

    def broadcast_(self, tensor: Tensor, source: int = 0) -> None:
        pass


class Distributed:
    """One of several processes that joined torch's default process group.

    Args:
        device: what the group's backend moves data on; tensors elsewhere take a detour over it.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        self._device = device

    def sum_(self, tensor: Tensor) -> None:
        # Gloo's rings and NCCL's rings and trees finish each element on one rank and pass the result around, so all
        # ranks hold the same bits; the order of the sum depends on the number of ranks alone.
        there = tensor.detach().to(self._device).contiguous()
        with _peers():
            distributed.all_reduce(there)
        _bring_back(there, tensor)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        there = tensor.detach().to(self._device).contiguous()
        everybodys = [torch.empty_like(there) for _ in range(self.size)]
        with _peers():
            distributed.all_gather(everybodys, there)
        return [theirs.to(tensor.device) for theirs in everybodys]

    def gather_ragged(self, tensor_A: Tensor) -> list[Tensor]:
        lengths = [int(length) for length in self.gather(torch.tensor([len(tensor_A)]))]
        padded = tensor_A.new_zeros(max(lengths))
        padded[: len(tensor_A)] = tensor_A
        return [whole[:length] for whole, length in zip(self.gather(padded), lengths, strict=True)]

    def broadcast_(self, tensor: Tensor, source: int = 0) -> None:
        there = tensor.detach().to(self._device).contiguous()
        with _peers():
            distributed.broadcast(there, source)
        _bring_back(there, tensor)


def _bring_back(there: Tensor, tensor: Tensor) -> None:
    if there.data_ptr() != tensor.data_ptr():
        with torch.no_grad():
            tensor.copy_(there)


@contextmanager
def _peers() -> Iterator[None]:
    """What torch raises because another process is gone is ours."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo/transport" in str(error):
            raise RankLost(f"another process of this run is gone, or the network to it: {error}") from error
        raise
