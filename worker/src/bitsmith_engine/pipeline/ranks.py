"""How the processes of a data-parallel run agree on when to work together: rank 0 calls, the others answer.

Between two calls the others wait in a collective operation, so nothing polls and nobody is early.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from bitsmith_engine.errors import EngineError, RankLost
from bitsmith_engine.runtime import Ranks

_OVER, _HELP = 0, 1


@contextmanager
def leading(ranks: Ranks) -> Iterator[Callable[[], None]]:
    """For rank 0: gives the function that starts the others' work; in the end they are released.

    So they are after an EngineError, which ends all ranks' work at one place, or rank 0's while the others wait. After
    anything else they may be in the middle of their work, where only the alarm reaches them.
    """
    try:
        yield lambda: _say(ranks, _HELP)
    except RankLost:  # nothing can be said
        raise
    except EngineError:
        _say(ranks, _OVER)
        raise
    _say(ranks, _OVER)


def follow(ranks: Ranks, work: Callable[[], None]) -> None:
    """For the other ranks: do the work at every call, until released.

    Raises:
        EngineError: what ended the work early, once rank 0, which it ended as well, has released this one.
    """
    failure: EngineError | None = None
    while _hear(ranks) == _HELP:
        try:
            work()
        except RankLost:
            raise
        except EngineError as error:
            failure = error
    if failure is not None:
        raise failure


def _say(ranks: Ranks, word: int) -> None:
    if ranks.size > 1:
        ranks.broadcast_(torch.tensor([word]))


def _hear(ranks: Ranks) -> int:
    word = torch.zeros(1, dtype=torch.int64)
    ranks.broadcast_(word)
    return int(word)
