"""Where and in which precision a run computes, and which processes compute it together."""

import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

import torch
from bitsmith_core.wire import Failed
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from bitsmith_engine.errors import NoDevice, Stopped, failed_line

# One process may wait for another that measures or quantizes for hours; one that fails says so, and dead ones are
# noticed by whoever started them.
_LONGEST_WAIT = timedelta(days=7)


_POLL_S = 0.5
_FAILED_KEY = "failed"

OnAlarm = Callable[[Failed], None]
"""Called in a thread of its own while the main one hangs, so it must end the process."""


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
        distributed.all_reduce(there)
        _bring_back(there, tensor)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        there = tensor.detach().to(self._device).contiguous()
        everybodys = [torch.empty_like(there) for _ in range(self.size)]
        distributed.all_gather(everybodys, there)
        return [theirs.to(tensor.device) for theirs in everybodys]

    def gather_ragged(self, tensor_A: Tensor) -> list[Tensor]:
        lengths = [int(length) for length in self.gather(torch.tensor([len(tensor_A)]))]
        padded = tensor_A.new_zeros(max(lengths))
        padded[: len(tensor_A)] = tensor_A
        return [whole[:length] for whole, length in zip(self.gather(padded), lengths, strict=True)]

    def broadcast_(self, tensor: Tensor, source: int = 0) -> None:
        there = tensor.detach().to(self._device).contiguous()
        distributed.broadcast(there, source)
        _bring_back(there, tensor)


def _bring_back(there: Tensor, tensor: Tensor) -> None:
    if there.data_ptr() != tensor.data_ptr():
        with torch.no_grad():
            tensor.copy_(there)


@contextmanager
def joined_ranks(
    environment: Mapping[str, str], device: torch.device, *, on_alarm: OnAlarm | None = None
) -> Iterator[Ranks]:
    """The run's processes, as torchrun describes them to each in its environment; alone where it says nothing.

    Args:
        on_alarm: hears that another process failed, which this one may wait for.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Single()
        return
    rank = int(environment["RANK"])
    store, _, _ = next(rendezvous("env://", rank, size, timeout=_LONGEST_WAIT))
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(
        backend, store=PrefixStore("ranks", store), rank=rank, world_size=size, timeout=_LONGEST_WAIT
    )
    # After a failure the group is left as it is: taking it down may wait for those who wait for this process.
    with _alarmed(store, on_alarm):
        yield Distributed(device)
    distributed.destroy_process_group()


@contextmanager
def _alarmed(store: Store, on_alarm: OnAlarm | None) -> Iterator[None]:
    """Inside, a failure of this process is told to the others, and one of theirs to on_alarm.

    Nothing interrupts a collective operation, and over NCCL it waits for days. So whoever fails says so in the store
    that all found each other through, where a thread of every other process looks.
    """
    is_over = threading.Event()
    if on_alarm is not None:
        own: Store = store.clone()  # type: ignore[attr-defined]  # torch's stub lacks it; one for each thread
        threading.Thread(target=_watch, args=(own, on_alarm, is_over), name="alarm", daemon=True).start()
    try:
        yield
    except Stopped:  # all stop at one step
        raise
    except Exception as error:
        is_over.set()
        store.set(_FAILED_KEY, failed_line(error).model_dump_json())
        time.sleep(2 * _POLL_S)  # the store may be this process' own, and the others must read it before it goes
        raise
    finally:
        is_over.set()


def _watch(store: Store, on_alarm: OnAlarm, is_over: threading.Event) -> None:
    while not is_over.wait(_POLL_S):
        try:
            if not store.check([_FAILED_KEY]):
                continue
            failed = Failed.model_validate_json(store.get(_FAILED_KEY))
        except distributed.DistError:  # whoever keeps the store is gone, as at the end of a good run
            return
        if not is_over.is_set():
            on_alarm(failed)
