"""What this machine can compute on. Without torch: these processes must stay free of CUDA contexts."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    device: str  # cuda or cpu
    devices: int  # that a job gets; 1 for a CPU
    memory_bytes: int | None  # of the smallest device; the machine's own without a GPU; None: nobody says


def look() -> Machine:
    """cuda if the driver answers and CUDA_VISIBLE_DEVICES hides not every GPU, else cpu."""
    gpus = parse_gpus(_ask_nvidia())
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus and (devices := visible(shown, len(gpus))):
        return Machine(device="cuda", devices=devices, memory_bytes=min(gpus))
    if not gpus and Path("/proc/driver/nvidia/version").exists():
        nodes = len(list(Path("/dev").glob("nvidia[0-9]*")))
        if devices := visible(shown, nodes):
            return Machine(device="cuda", devices=devices, memory_bytes=None)
    return Machine(device="cpu", devices=1, memory_bytes=host_memory_bytes())


def parse_gpus(listed: str) -> list[int]:
    """Bytes of each GPU, from what `nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits` prints."""
    return [int(line) * _MIB for line in listed.splitlines() if line.strip().isdecimal()]


def visible(shown: str | None, there: int) -> int:
    """How many of the machine's GPUs CUDA shows to a program.

    Args:
        shown: CUDA_VISIBLE_DEVICES: indices or uuids, of which those before the first invalid one count; of MIG's
            slices a program sees one.
    """
    if shown is None or not there:
        return there
    count = 0
    for name in shown.split(","):
        name = name.strip()
        if name.startswith("MIG-"):
            return max(count, 1)
        if not name.startswith("GPU-") and not (name.isdecimal() and int(name) < there):
            return count
        count += 1
    return min(count, there)


def cores() -> int:
    """Of the CPU, that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def oom_kills() -> int | None:
    """How many processes the kernel has ended for lack of memory, in whatever group; None: it does not say."""
    try:
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    except OSError:
        return None
    return int(counters["oom_kill"]) if "oom_kill" in counters else None


def host_memory_bytes() -> int | None:
    """What this process may use at most: the control group's limit where there is one below the machine's memory."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdecimal() else machine


def _ask_nvidia() -> str:
    if (tool := shutil.which("nvidia-smi")) is None:
        return ""
    command = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return listed.stdout.decode(errors="replace") if listed.returncode == 0 else ""
