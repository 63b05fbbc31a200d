"""What was answered under a key is answered again, to nobody else and for nothing else."""

import pytest
from bitsmith_core import identity
from bitsmith_core.db import Tx
from bitsmith_core.errors import IdempotencyMismatch
from bitsmith_core.ids import DEFAULT_PROJECT


def test_the_same_key_and_request_answer_the_same(tx: Tx) -> None:
    answer = identity.Answer(status=200, body={"id": "x"})
    assert identity.replayed(tx, "k1", project=DEFAULT_PROJECT, request_sha256="a") is None
    identity.remember(tx, "k1", answer, project=DEFAULT_PROJECT, request_sha256="a")
    assert identity.replayed(tx, "k1", project=DEFAULT_PROJECT, request_sha256="a") == answer
    with pytest.raises(IdempotencyMismatch):
        identity.replayed(tx, "k1", project=DEFAULT_PROJECT, request_sha256="b")
