"""FineTuneJobs become jobs, and say how those are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bitsmith_core import jobs, registry
from bitsmith_core.clock import utc_now
from bitsmith_core.db import Database, Tx
from bitsmith_core.errors import Conflict, Invalid, NotFound, QuotaExceeded
from bitsmith_core.identity import limits, projects
from bitsmith_core.ids import ProjectId
from bitsmith_core.jobs import TERMINAL, DesiredState, JobStatus
from bitsmith_core.log import get_logger
from bitsmith_core.spec import JobSpec
from pydantic import ValidationError

from bitsmith_operator import mirror
from bitsmith_operator.cluster import Cluster
from bitsmith_operator.objects import FineTuneJob
from bitsmith_operator.settings import OperatorSettings
from bitsmith_operator.statuses import Statuses

log = get_logger()

PLURAL = "finetunejobs"


@dataclass
class _Attendance:
    """Which objects of a namespace were seen, when. Lost with the process: then deletions are noticed later."""

    since: datetime  # the kind has been there in every look
    last_seen: dict[str, datetime] = field(default_factory=dict)  # uid -> when


class FineTuneJobs:
    def __init__(self, database: Database, cluster: Cluster, statuses: Statuses, settings: OperatorSettings) -> None:
        self._database, self._cluster, self._statuses, self._settings = database, cluster, statuses, settings
        self._attendance: dict[str, _Attendance] = {}

    def look(self, namespace: str) -> None:
        """
        Raises:
            ClusterUnavailable, DatabaseUnavailable
        """
        found = self._cluster.list_objects(PLURAL, namespace)
        if found is None:  # the kind is gone, and all objects with it; nobody has said that their jobs shall end
            self._attendance.pop(namespace, None)
            return
        for body in found:
            if body["metadata"].get("deletionTimestamp") is None:
                self._attend(body)
        self._let_go(namespace, found)

    def _let_go(self, namespace: str, found: Sequence[dict[str, Any]]) -> None:
        """Cancel the jobs of objects that were deleted.

        When somebody removes the definition of the kind, Kubernetes deletes all objects first, and for a moment the
        kind is there and empty: so deletions count after a while only, and not if the kind has gone meanwhile.
        """
        now, patience = utc_now(), timedelta(seconds=self._settings.gone_after_s)
        attendance = self._attendance.setdefault(namespace, _Attendance(since=now))
        attendance.last_seen |= {body["metadata"]["uid"]: now for body in found}
        if now - attendance.since < patience:
            return
        for uid in [uid for uid, at in attendance.last_seen.items() if now - at >= patience and at != now]:
            del attendance.last_seen[uid]
            self._statuses.forget(uid)
        with self._database.transaction() as tx:
            cancelled = jobs.cluster.let_go(tx, namespace=namespace, present=attendance.last_seen, young=patience)
        for job_id in cancelled:
            log.info("job.cancelled", job_id=job_id, reason="its FineTuneJob was deleted")

    def _attend(self, body: dict[str, Any]) -> None:
        now = utc_now()
        metadata, before = body["metadata"], body.get("status") or {}
        generation = metadata.get("generation", 1)
        if mirror.is_over(before, generation=generation) and "ttlSecondsAfterFinished" not in body["spec"]:
            return
        try:
            wanted = FineTuneJob.read(body)
            with self._database.transaction() as tx:
                seen, finished_at = self._as_wanted(tx, wanted)
        except (ValidationError, Invalid, Conflict, NotFound, QuotaExceeded) as error:
            reason = "QuotaExceeded" if isinstance(error, QuotaExceeded) else "InvalidSpec"
            problem = mirror.told(error, {**body, **body["spec"]})
            status = mirror.refused(problem, generation=generation, before=before, now=now, reason=reason)
            self._statuses.write(PLURAL, body, status, now=now)
            return
        status = mirror.status_of(seen, generation=generation, before=before, now=now)
        self._statuses.write(PLURAL, body, status, now=now)
        ttl = wanted.spec.ttl_seconds_after_finished
        if ttl is not None and finished_at is not None and now - finished_at > timedelta(seconds=ttl):
            self._cluster.delete_object(PLURAL, metadata["namespace"], metadata["name"], uid=metadata["uid"])

    def _as_wanted(self, tx: Tx, wanted: FineTuneJob) -> tuple[mirror.Seen, datetime | None]:
        """Submit it, pause it, let it go on; answers how it stands."""
        uid, own = wanted.metadata.uid, wanted.spec
        job = jobs.cluster.find(tx, [uid]).get(uid) or self._submitted(tx, wanted)
        jobs.cluster.remember_wish(tx, uid, is_cancelled_with_it=own.deletion_policy == "Cancel")
        if JobStatus(job.status) not in TERMINAL and job.desired_state != DesiredState.CANCEL:
            is_paused = job.desired_state == DesiredState.PAUSE or job.status == JobStatus.PAUSED
            # Where the object says nothing, a pause by somebody else stays.
            has_word = "suspend" in own.model_fields_set or wanted.status.get("suspended") is True
            if own.suspend and not is_paused:
                job = jobs.pause(tx, job.id)
            elif not own.suspend and is_paused and has_word:
                job = jobs.resume(tx, job.id)
            if job.priority != own.priority and "priority" in own.model_fields_set:
                job = jobs.change(tx, job.id, version=None, priority=own.priority, labels=None)
        seen = mirror.Seen(
            job_id=job.id,
            status=job.status,
            stage=job.stage,
            done=job.progress.get("done", 0),
            total=job.progress.get("total", 0),
            attempts=job.attempt_no,
            reason_code=job.reason_code,
            reason_message=job.reason_message,
            result=registry.results_of(tx, [job.id]).get(job.id),
            has_changed_spec=_digest(wanted) != job.spec_sha256,
            is_suspended=own.suspend,
        )
        return seen, job.finished_at

    def _submitted(self, tx: Tx, wanted: FineTuneJob) -> jobs.Job:
        spec: JobSpec = wanted.job_spec()
        namespace, name = wanted.metadata.namespace, wanted.metadata.name
        project = projects.get(tx, ProjectId(self._settings.project_of(namespace))).id
        installation = limits.Limits(requests_per_minute=0, open_jobs=self._settings.max_open_jobs, storage_bytes=0)
        limits.check_open_jobs(tx, project=project, installation=installation)
        job = jobs.cluster.submit(
            tx,
            spec,
            uid=wanted.metadata.uid,
            namespace=namespace,
            name=name,
            project=project,
            priority=wanted.spec.priority,
            is_cancelled_with_it=wanted.spec.deletion_policy == "Cancel",
        )
        log.info("job.submitted", job_id=job.id, finetunejob=f"{namespace}/{name}")
        return job


def _digest(wanted: FineTuneJob) -> str | None:
    """Of what the object asks for now; None: of nothing that could be a job."""
    try:
        return wanted.job_spec().sha256
    except ValidationError:
        return None
