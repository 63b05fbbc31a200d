"""A gate, asked of a version: what to compare is read in a transaction, the items outside of any.

with database.transaction() as tx:
    trial = trials.plan(tx, gate, candidate="name@3", current=2, project=project)
report = trials.decide(trial, items.read)
"""

from dataclasses import dataclass

from bitsmith_core.db import Tx
from bitsmith_core.ids import ProjectId
from bitsmith_core.registry import evals
from bitsmith_core.registry.compare import Pair, Read, compare, headlines
from bitsmith_core.registry.gates import Gate, Report, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    gate: Gate
    candidate: str  # name@3
    against: str | None  # None: there is nothing to be held against
    pairs: tuple[Pair, ...] = ()


def plan(tx: Tx, gate: Gate, *, candidate: str, current: int | None, project: ProjectId) -> Trial:
    """
    Args:
        candidate: name@3.
        current: the version that the alias points at now; None: there is no such alias yet.

    Raises:
        NotFound: the candidate, or what the gate holds it against, is not there.
    """
    version = evals.resolve(tx, candidate, project=project)
    if gate.against == "base":
        against = evals.side_of(tx, version, "float")
    else:
        wanted = gate.against
        if wanted == "current":
            if current is None:
                return Trial(gate=gate, candidate=version.name, against=None)
            wanted = f"{version.model}@{current}"
        other = evals.resolve(tx, wanted, project=project)
        if other.id == version.id:
            return Trial(gate=gate, candidate=version.name, against=None)
        against = evals.side_of(tx, other)
    pairs = evals.pairs(evals.side_of(tx, version), against)
    return Trial(gate=gate, candidate=version.name, against=against.name, pairs=tuple(headlines(pairs)))


def decide(trial: Trial, read: Read) -> Report:
    """
    Args:
        read: the items of an evaluation (`registry.items.Items.read`); it may ask the object store.
    """
    compared = compare(trial.pairs, read, confidence=trial.gate.confidence)
    return judge(trial.gate, compared, candidate=trial.candidate, against=trial.against)
