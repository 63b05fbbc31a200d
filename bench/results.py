"""What a bench found, written as it is found: one JSON file with the command, the machine, the versions and the rows.

The file is replaced after every row, so a bench that is interrupted keeps what it has, and one started again with
--resume goes on after it. A row is known by its key; a key that holds the settings of the bench makes sure that rows
of other settings are not taken for one's own.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "bitsmith",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "hqq",
    "auto-round",
    "gptqmodel",
    "fastapi",
    "sqlalchemy",
)

Row = dict[str, Any]


class Results:
    def __init__(self, path: Path, *, settings: Mapping[str, Any], resume: bool) -> None:
        self._path = path
        self._settings = dict(settings)
        self.rows: list[Row] = []
        if resume and path.is_file():
            kept: list[Row] = json.loads(path.read_text())["rows"]
            self.rows = [row for row in kept if row["settings"] == self._settings]

    def has(self, **key: Any) -> bool:
        return any(row["key"] == key for row in self.rows)

    def add(self, values: Mapping[str, Any], **key: Any) -> None:
        """Write the row at once; one of the same key is replaced."""
        self.rows = [row for row in self.rows if row["key"] != key]
        self.rows.append({"key": key, "settings": self._settings, **values})
        document = {"written": datetime.now(UTC).isoformat(timespec="seconds"), **environment(), "rows": self.rows}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(document, indent=1))
        temporary.replace(self._path)


def environment() -> dict[str, Any]:
    """The command, the hardware and the versions: what a number means nothing without."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "hardware": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "load_average": [round(load, 2) for load in os.getloadavg()],
        },
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def table(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> str:
    """Markdown, columns aligned; all but the first to the right."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]

    def drawn(line: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = [("-" * (width - 1) + ":") if i else "-" * width for i, width in enumerate(widths)]
    return "\n".join([drawn(lines[0]), drawn(rule), *map(drawn, lines[1:])])


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
