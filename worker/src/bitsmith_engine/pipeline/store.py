"""OUT/stages: what each finished stage keeps, so that an engine started again continues after it.

A folder appears by rename with everything in it on disk, so a stage is there completely or not at all. stage.json says
which run it belongs to; a folder of another run is thrown away and the stage done again.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitsmith_core.bundle import StageFacts
from bitsmith_core.wire import Stage
from pydantic import BaseModel, ConfigDict, ValidationError

from bitsmith_engine.folders import replace_folder

_FACTS_FILE = "stage.json"


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    facts: StageFacts


def run_key(spec_sha256: str, engine_version: str) -> str:
    """What must be equal for a stage to be taken over."""
    return hashlib.sha256(f"{spec_sha256}/{engine_version}".encode()).hexdigest()


class StageStore:
    def __init__(self, root: Path, key: str) -> None:
        self._root = root
        self._key = key

    def folder(self, stage: Stage) -> Path:
        return self._root / stage

    def finished(self, stage: Stage) -> StageFacts | None:
        """The facts of a finished stage of this very run, else None."""
        try:
            kept = _Kept.model_validate_json((self.folder(stage) / _FACTS_FILE).read_bytes())
        except (OSError, ValidationError):
            return None
        return kept.facts if kept.run == self._key else None

    def scratch(self, stage: Stage) -> Path:
        """Where a stage keeps its own checkpoints between attempts; gone once it is finished.

        Of this very run: another one's is thrown away.
        """
        # The run is in the path, so that what lies deeper can be put back on another machine as it was.
        ours = self._root / f".{stage}-scratch" / self._key[:16]
        for other in ours.parent.glob("*"):
            if other != ours:
                shutil.rmtree(other)
        ours.mkdir(parents=True, exist_ok=True)
        return ours

    @contextmanager
    def filling(self, stage: Stage) -> Iterator[Path]:
        """A temporary folder for a stage's results; left behind (and reused as empty) if the stage fails."""
        temporary = self._root / f".{stage}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary

    def keep(self, temporary: Path, facts: StageFacts) -> None:
        """Make a filled folder the stage's result."""
        (temporary / _FACTS_FILE).write_text(_Kept(run=self._key, facts=facts).model_dump_json(indent=1))
        replace_folder(temporary, self.folder(Stage(facts.stage)))
        shutil.rmtree(self._root / f".{facts.stage}-scratch", ignore_errors=True)
