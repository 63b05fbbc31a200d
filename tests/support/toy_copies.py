"""One process of a run whose machines have folders of their own, for tests that start several."""

import json
from pathlib import Path

import torch
from bitsmith_engine.copies import Copies, check_equal_models
from bitsmith_engine.errors import BadModel
from bitsmith_engine.joining import joined_ranks

MACHINES = {0: "a", 1: "b", 2: "b"}
"""By rank: two processes share the second one."""


def copy_rank(rank: int, size: int, port: int, root: str) -> None:
    torch.set_num_threads(1)
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    out = Path(root) / MACHINES[rank]
    with joined_ranks({"RANK": str(rank), "WORLD_SIZE": str(size), **there}, torch.device("cpu")) as ranks:
        copies = Copies(ranks, out)
        stage = out / "stages" / "quantizing"
        copies.spread(stage)
        seen = {path.relative_to(stage).as_posix(): path.stat().st_size for path in stage.rglob("*") if path.is_file()}

        part = out / "part"
        part.mkdir(exist_ok=True)
        (part / f"rank-{rank}").write_bytes(bytes([rank]) * (100 + rank))
        for source in range(size):
            copies.bring(part / f"rank-{source}", source=source)
        brought = {path.name: path.read_bytes().hex() for path in part.iterdir()}
        copies.drop(part)

        check_equal_models(ranks, Path(root) / "model")
        try:
            check_equal_models(ranks, out / "model")
            complaint = ""
        except BadModel as error:
            complaint = str(error)
    left = sorted(path.name for path in out.iterdir())
    told = {"needed": copies.are_needed, "seen": seen, "brought": brought, "left": left, "complaint": complaint}
    (Path(root) / f"{rank}.json").write_text(json.dumps(told))
