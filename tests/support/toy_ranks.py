"""One process of a data-parallel run of the toy model, for tests that start several."""

import os
from pathlib import Path
from typing import Any

import torch
from bitsmith_core.wire import Failed
from bitsmith_engine.errors import Stopped
from bitsmith_engine.joining import joined_ranks
from bitsmith_engine.runtime import Ranks
from toy_training import CPU, Listener, toy

RUNS: dict[str, dict[str, Any]] = {
    "even": {"max_steps": 3},
    # Three examples for two processes, one at a time: one of them has a turn with nothing to do.
    "uneven": {"max_steps": 2, "batch_size": 3, "micro_batch_size": 1, "packing": False},
    "alone in a step": {"max_steps": 2, "batch_size": 1},
    "norms": {"max_steps": 3, "early_stopping": {"every_steps": 1, "patience": 9, "examples": 5}},
}


def run_rank(rank: int, size: int, port: int, inputs: str, out: str) -> None:
    torch.set_num_threads(1)
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = {"RANK": str(rank), "WORLD_SIZE": str(size), **there}
    with joined_ranks(environment, CPU.device, on_alarm=_die_of_a_false_alarm) as ranks:
        found = {"sums": _sums(ranks)}
        for name in RUNS:
            found[name] = _train(Path(inputs), ranks, name)
        found["stopped"] = _stop_and_continue(Path(inputs), ranks, Path(out) / "checkpoints")
    torch.save(found, Path(out) / f"{rank}.pt")


def _die_of_a_false_alarm(failed: Failed) -> None:
    os._exit(9)


def _sums(ranks: Ranks) -> dict[str, Any]:
    summed = torch.randn(1000, generator=torch.Generator().manual_seed(ranks.rank))
    view = torch.full((3, 2), float(ranks.rank + 1)).T
    ranks.sum_(summed)
    ranks.sum_(view)
    given = torch.full((2,), ranks.rank)
    ranks.broadcast_(given, source=1)
    return {
        "sum": summed,
        "view": view,
        "broadcast": given,
        "gather": ranks.gather(torch.tensor([ranks.rank])),
        "ragged": ranks.gather_ragged(torch.arange(3 * ranks.rank, dtype=torch.uint8)),
    }


def _train(inputs: Path, ranks: Ranks, name: str) -> dict[str, Any]:
    run, listener = toy(inputs, ranks=ranks, **RUNS[name]), Listener()
    facts = run.train(listener, train_norms=name == "norms")
    return {"state": run.state(), "facts": facts.model_dump(), "losses": [step["loss"] for step in listener.metrics]}


def _stop_and_continue(inputs: Path, ranks: Ranks, checkpoints: Path) -> dict[str, Any]:
    """Only the last process is asked to stop."""

    def stop(done: int) -> None:
        if done == 2 and ranks.rank == ranks.size - 1:
            raise Stopped("asked to")

    run, listener = toy(inputs, ranks=ranks, **RUNS["even"]), Listener(stop)
    message = ""
    try:
        run.train(listener, checkpoints=checkpoints)
    except Stopped as error:
        message = str(error)
    resumed = toy(inputs, ranks=ranks, **RUNS["even"])
    resumed.train(Listener(), checkpoints=checkpoints)
    return {"message": message, "steps": len(listener.metrics), "state": resumed.state()}
