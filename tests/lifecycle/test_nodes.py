"""With the real engine: two nodes with nothing in common but the network make the model that two processes make."""

import os
import signal
import socket

import pytest
from bitsmith_client.lab.child import Child
from bitsmith_core import jobs
from bitsmith_core.jobs import JobStatus
from bitsmith_core.spec import JobSpec

from tests.lifecycle.test_identity import ENGINE, PATIENCE_S, digest_of, spec, submit  # noqa: F401  # a fixture
from tests.lifecycle.test_ranks import by_hand, ranks_of, trained
from tests.worker.conftest import Platform, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Gang:
    """A worker and the node that helps it, each with a scratch folder of its own."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]

    def leader(self, **environment: str) -> Child:
        child = self._start("leader", rank=0, **environment)
        until(lambda: self._platform.is_present("gang"), what="the worker's first report")
        return child

    def helper(self, **environment: str) -> Child:
        return self._start("helper", rank=1, **environment)

    def _start(self, name: str, *, rank: int, **environment: str) -> Child:
        return self._platform.start_worker(
            name,
            BITSMITH_WORKER_NAME="gang",
            BITSMITH_WORKER_ENGINE=ENGINE,
            BITSMITH_WORKER_SCRATCH=str(self._platform.folder / f"scratch-{name}"),
            BITSMITH_NODES="2",
            JOB_COMPLETION_INDEX=str(rank),
            BITSMITH_LEADER_HOST="127.0.0.1",
            BITSMITH_LEADER_PORT=str(self._port),
            **environment,
        )


@pytest.fixture
def gang(platform: Platform) -> Gang:
    return Gang(platform)


@pytest.mark.failure("node killed")
def test_two_nodes_make_one_model_even_if_one_dies_and_comes_back(
    platform: Platform,
    gang: Gang,
    spec: JobSpec,  # noqa: F811
) -> None:
    platform.scheduler()
    leader, helper = gang.leader(), gang.helper()
    job_id = submit(platform, spec)
    until(lambda: trained(platform, job_id) > 0, within_s=PATIENCE_S, what="a checkpoint")
    assert (set(ranks_of(leader)), set(ranks_of(helper))) == ({0}, {1})
    rank = ranks_of(helper)[1]

    helper.kill()
    until(lambda: not rank.is_running(), what="the end of its rank")
    until(lambda: platform.outcomes(job_id)[:1] == ["infra"], what="the attempt's end")
    kept = trained(platform, job_id)
    gang.helper()
    platform.until_status(job_id, JobStatus.SUCCEEDED, within_s=2 * PATIENCE_S)

    assert platform.outcomes(job_id) == ["infra", "succeeded"]
    assert (platform.attempts(job_id)[-1].start_step or 0) >= kept > 0
    assert digest_of(platform, job_id) == by_hand(platform, spec).sha256
    assert platform.versions() == 1


@pytest.mark.failure("node killed")
def test_a_node_says_that_its_process_was_killed_or_that_it_leaves_and_ends_with_the_attempt(
    platform: Platform,
    gang: Gang,
    spec: JobSpec,  # noqa: F811
) -> None:
    platform.scheduler()
    leader, helper = gang.leader(), gang.helper()
    job_id = submit(platform, spec)
    until(lambda: len(ranks_of(helper)) == 1 and len(ranks_of(leader)) == 1, within_s=PATIENCE_S, what="two ranks")
    os.kill(ranks_of(helper)[1].pid, signal.SIGKILL)
    until(lambda: platform.outcomes(job_id)[:1] == ["infra"], what="the attempt's end")
    lost = platform.attempts(job_id)[0]
    assert "On node 1:" in (lost.reason_message or "")
    assert lost.evidence["devices"] == 2, "both nodes' CPUs were held"

    until(lambda: len(ranks_of(helper)) == 1 and len(ranks_of(leader)) == 1, within_s=PATIENCE_S, what="two ranks")
    helper.stop()
    until(lambda: platform.outcomes(job_id)[:2] == ["infra", "yield"], what="the end of the second attempt")
    assert platform.attempts(job_id)[1].reason_code == "node_left"
    helper = gang.helper()

    until(lambda: len(ranks_of(helper)) == 1 and len(ranks_of(leader)) == 1, within_s=PATIENCE_S, what="two ranks")
    ranks = [*ranks_of(helper).values(), *ranks_of(leader).values()]
    with platform.database.transaction() as tx:
        jobs.cancel(tx, job_id)
    platform.until_status(job_id, JobStatus.CANCELLED)
    until(lambda: not any(rank.is_running() for rank in ranks), what="the end of both")
    assert helper.is_running()


def test_nodes_that_are_there_for_one_attempt_end_by_themselves(
    platform: Platform,
    gang: Gang,
    spec: JobSpec,  # noqa: F811
) -> None:
    """As pods of an Indexed Job do: it is complete when all have ended well."""
    platform.scheduler()
    once = {"BITSMITH_WORKER_ONCE": "true", "BITSMITH_WORKER_IDLE_WITHIN_S": "60"}
    nodes = [gang.helper(**once), gang.leader(**once)]
    document = spec.model_dump(mode="json")
    document["method"]["qsft"]["training"] |= {"epochs": 1}
    job_id = submit(platform, JobSpec.model_validate(document))
    platform.until_status(job_id, JobStatus.SUCCEEDED, within_s=PATIENCE_S)
    until(lambda: not any(node.is_running() for node in nodes), what="the end of both")
    assert [node.exit_status for node in nodes] == [0, 0]

    nodes = [gang.helper(**once), gang.leader(**once | {"BITSMITH_WORKER_IDLE_WITHIN_S": "3"})]
    until(lambda: not any(node.is_running() for node in nodes), what="the end of two that nothing came to")
    assert [node.exit_status for node in nodes] == [0, 0]
    assert platform.outcomes(job_id) == ["succeeded"]
