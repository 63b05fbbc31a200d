"""How fast the API is, on real servers and full tables; with --mlflow beside MLflow's tracking server.

    python bench/api.py --out api.json
    python bench/api.py --mlflow /path/to/venv/bin/python --out api.json

Both are one server process, and both keep their tables in the same Postgres server. What both can do is asked of them
in turns, in bursts of a few seconds, by the same client over the same number of connections; whatever else the machine
does meets both. Their answers differ in what they say: `KB` is the size of one.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from apis import bitsmith, mlflow, readers
from apis.load import Burst, Make, Server, burst, percentile
from results import Results, Row, table

WARM_S = 0.5
WAITING = f"get a job while {bitsmith.WAITING} wait"


def main() -> None:
    settings = _arguments()
    sizes = {name: getattr(settings, name) for name in ("jobs", "versions", "connections", "seconds", "readers")}
    results = Results(settings.out, settings=sizes, resume=False)
    with ExitStack() as undo:
        folder = Path(
            undo.enter_context(tempfile.TemporaryDirectory(prefix="bitsmith-bench-", ignore_cleanup_errors=True))
        )
        folder.chmod(0o711)  # Postgres runs as another account
        say(f"filling {settings.jobs} jobs and {settings.versions} versions")
        ours = undo.enter_context(bitsmith.running(folder, num_jobs=settings.jobs, num_versions=settings.versions))
        systems: dict[str, tuple[Server, dict[str, Make]]] = {"bitsmith": (ours.server, ours.operations())}
        if settings.mlflow is not None:
            say("starting and filling MLflow")
            theirs = undo.enter_context(
                mlflow.running(
                    settings.mlflow, ours.config, folder, workers=settings.mlflow_workers,
                    num_runs=settings.jobs, num_versions=settings.versions,
                )
            )  # fmt: skip
            systems[f"mlflow {theirs.version}"] = (theirs.server, theirs.operations())
        warm_up(systems, ours, settings)
        for number in range(settings.rounds):
            measure_round(number, systems, ours, settings, results)
        measure_streams(ours, settings, results)
    print(summary(results.rows))
    print()
    print(streams(results.rows))


def warm_up(
    systems: dict[str, tuple[Server, dict[str, Make]]], ours: bitsmith.Platform, settings: argparse.Namespace
) -> None:
    """Every question once: connections, plans and caches."""
    for system, (server, known) in systems.items():
        for make in known.values():
            burst(server, make, connections=settings.connections, seconds=WARM_S, seed=-1)
        say(f"{system} is warm")
    ours.empty_queue()


def measure_round(
    number: int,
    systems: dict[str, tuple[Server, dict[str, Make]]],
    ours: bitsmith.Platform,
    settings: argparse.Namespace,
    results: Results,
) -> None:
    asked = {"connections": settings.connections, "seconds": settings.seconds, "seed": number}
    operations = list(dict.fromkeys(name for _, known in systems.values() for name in known))
    for operation in operations:
        # Whoever comes second finds the machine as the first one left it: they take turns in that, too.
        for system, (server, known) in list(systems.items())[:: -1 if number % 2 else 1]:
            if operation in known:
                keep(results, burst(server, known[operation], **asked), system, operation, number)
        ours.empty_queue()
    keep(results, burst(ours.server, ours.get_waiting(), **asked), "bitsmith", WAITING, number)
    ours.empty_queue()


def keep(results: Results, found: Burst, system: str, operation: str, number: int) -> None:
    facts = {
        "requests": len(found.latencies_ms),
        "per_second": found.per_second,
        "p50_ms": found.percentile_ms(50),
        "p99_ms": found.percentile_ms(99),
        "bytes": found.bytes_each,
    }
    results.add(facts, system=system, operation=operation, round=number)
    say(f"round {number + 1}, {operation}, {system}: {found.per_second:.0f}/s, p99 {facts['p99_ms']:.0f} ms")


def measure_streams(ours: bitsmith.Platform, settings: argparse.Namespace, results: Results) -> None:
    found = {
        "live": readers.live(
            ours.server, ours.database, ours.claimed(), readers=settings.readers, seconds=settings.seconds
        ),
        "replay": readers.replay(ours.server, ours.database, ours.claimed(), readers=settings.readers),
    }
    for kind, heard in found.items():
        delays_ms = heard.delays_ms
        facts = {
            "readers": heard.readers,
            "written": heard.written,
            "heard": heard.heard,
            "seconds": heard.seconds,
            "delay_p50_ms": percentile(delays_ms, 50) if delays_ms else None,
            "delay_p99_ms": percentile(delays_ms, 99) if delays_ms else None,
        }
        results.add(facts, system="bitsmith", operation=f"event stream, {kind}", round=0)


def summary(rows: Sequence[Row]) -> str:
    """Medians over the rounds."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "per_second" in row:
            grouped.setdefault((row["key"]["operation"], row["key"]["system"]), []).append(row)
    lines = []
    for (operation, system), found in sorted(grouped.items(), key=lambda item: list(_order(rows)).index(item[0][0])):
        middle = {
            name: statistics.median(row[name] for row in found) for name in ("per_second", "p50_ms", "p99_ms", "bytes")
        }
        lines.append(
            [
                operation,
                system,
                f"{middle['per_second']:.0f}",
                f"{middle['p50_ms']:.1f}",
                f"{middle['p99_ms']:.1f}",
                f"{middle['bytes'] / 1000:.1f}",
            ]
        )
    return table(lines, ["operation", "system", "requests/s", "p50 ms", "p99 ms", "KB"])


def streams(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["key"]["operation"],
            str(row["readers"]),
            f"{row['heard'] / row['seconds']:.0f}",
            _or_dash(row["delay_p50_ms"]),
            _or_dash(row["delay_p99_ms"]),
        ]
        for row in rows
        if "readers" in row
    ]
    return table(lines, ["Bitsmith", "readers", "events/s", "delay p50 ms", "delay p99 ms"])


def say(line: str) -> None:
    print(line, file=sys.stderr)


def _order(rows: Sequence[Row]) -> dict[str, None]:
    return dict.fromkeys(row["key"]["operation"] for row in rows)


def _or_dash(value: Any) -> str:
    return "-" if value is None else f"{value:.0f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    parser.add_argument("--jobs", type=int, default=100_000, help="in the table before anything is measured")
    parser.add_argument("--versions", type=int, default=10_000, help="in the registry, ten to a model")
    parser.add_argument("--connections", type=int, default=8, help="requests at the same time")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each burst")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--readers", type=int, default=200, help="of one event stream")
    parser.add_argument("--mlflow", type=Path, metavar="PYTHON", help="interpreter of an environment with MLflow")
    parser.add_argument("--mlflow-workers", type=int, default=1, help="processes of MLflow's server")
    return parser.parse_args()


if __name__ == "__main__":
    main()
