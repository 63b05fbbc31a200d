"""What early stopping takes for the best, seen through its own history."""

import math

import torch
from bitsmith_core.spec import EarlyStopping
from bitsmith_engine.data.examples import Example
from bitsmith_engine.optim.floats import Floats
from bitsmith_engine.ports import Silent
from bitsmith_engine.train.checkpoint import History
from bitsmith_engine.train.early_stopping import EarlyStop
from bitsmith_engine.train.weights import Weights

EXAMPLE = Example(ids=(1, 2), learned=(False, True), answer_start=1, answer="a", is_cut=False)


def test_a_first_look_without_a_finite_loss_is_not_the_best_for_ever() -> None:
    bias = torch.nn.Parameter(torch.zeros(1))
    weights = Weights(torch.nn.Identity(), Floats({"bias": bias}, through=torch.float32))
    stop = EarlyStop(EarlyStopping(every_steps=1, patience=2), [EXAMPLE], weights, Silent())
    history = History()
    stop.judge(math.nan, history)
    assert (history.best_loss, history.looks_since_best) == (None, 1)
    stop.judge(2.0, history)
    assert (history.best_loss, history.looks_since_best) == (2.0, 0)
    stop.judge(math.nan, history)
    assert (history.best_loss, history.looks_since_best) == (2.0, 1)
