"""Fine-tuning jobs: submitted, steered, followed."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from bitsmith_core.spec import JobSpec

from bitsmith_client.sdk.answers import Attempt, Checkpoint, DryRun, Event, Job, Series
from bitsmith_client.sdk.errors import ApiError, Disconnected, Unreachable
from bitsmith_client.sdk.pages import listed, segment
from bitsmith_client.sdk.stream import messages
from bitsmith_client.sdk.transport import RETRIED, Json, Transport

RECONNECT_TRIES = 12  # with the delays below: a server may be away for about a minute and a half
RECONNECT_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Jobs:
    _path = "/v1/fine_tuning/jobs"

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, spec: JobSpec | Json, *, idempotency_key: str | None = None) -> Job:
        """Submit a job, once: without a key one is made up, so that a broken connection does not make two jobs."""
        return Job.model_validate(self._transport.post(self._path, _body(spec), key=idempotency_key or str(uuid4())))

    def dry_run(self, spec: JobSpec | Json) -> DryRun:
        """What the job would be and what it would need; nothing is submitted.

        Raises:
            ApiError: invalid_spec, if it cannot even be read; what else it would be refused for is in `errors`.
        """
        return DryRun.model_validate(self._transport.post(self._path, _body(spec), {"dry_run": "true"}))

    def get(self, job_id: str) -> Job:
        return Job.model_validate(self._transport.get(self._of(job_id)))

    def list(
        self,
        *,
        limit: int = 20,
        statuses: Sequence[str] = (),
        models: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> list[Job]:
        """Newest first."""
        query: dict[str, Any] = {"status": [*statuses], "model": [*models]}
        query |= {f"metadata[{name}]": value for name, value in (metadata or {}).items()}
        return listed(self._transport, self._path, Job, limit=limit, query=query)

    def change(
        self,
        job_id: str,
        *,
        priority: int | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: int | None = None,
    ) -> Job:
        """Change priority, metadata, or both.

        Args:
            if_version: of the job as it was seen last.

        Raises:
            ApiError: precondition_failed, if the job has another version by now.
        """
        body: Json = {} if priority is None else {"priority": priority}
        if metadata is not None:
            body["metadata"] = dict(metadata)
        etag = None if if_version is None else f'"{if_version}"'
        return Job.model_validate(self._transport.patch(self._of(job_id), body, if_match=etag))

    def cancel(self, job_id: str) -> Job:
        return self._act(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        """At once if it waits; otherwise after a checkpoint."""
        return self._act(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        return self._act(job_id, "resume")

    def clone(self, job_id: str, changes: Json | None = None, *, idempotency_key: str | None = None) -> Job:
        """A new job that asks for the same but for the changes, a JSON merge patch of the request."""
        key = idempotency_key or str(uuid4())
        return Job.model_validate(self._transport.post(f"{self._of(job_id)}/clone", changes or {}, key=key))

    def attempts(self, job_id: str, *, limit: int = 20) -> Sequence[Attempt]:
        """Newest first."""
        return listed(self._transport, f"{self._of(job_id)}/attempts", Attempt, limit=limit)

    def checkpoints(self, job_id: str, *, limit: int = 20) -> Sequence[Checkpoint]:
        """Newest first."""
        return listed(self._transport, f"{self._of(job_id)}/checkpoints", Checkpoint, limit=limit)

    def metrics(self, job_id: str, *, names: Sequence[str] = (), max_points: int = 1000) -> Sequence[Series]:
        """Curves by attempt, stage and name; long ones thinned out by the server."""
        query: dict[str, Any] = {"name": [*names], "max_points": max_points}
        found = self._transport.get(f"{self._of(job_id)}/metrics", query)
        return [Series.model_validate(series) for series in found["series"]]

    def logs(
        self, job_id: str, *, attempt: int | None = None, tail: int | None = None, after: str | None = None
    ) -> tuple[str, str | None]:
        """The log as text, and a cursor: pass it as `after` to get only what came since."""
        asked = {"attempt": attempt, "tail": tail, "after": after}
        query = {name: value for name, value in asked.items() if value is not None}
        return self._transport.text_and_header(f"{self._of(job_id)}/logs", query, header="X-Log-Cursor")

    def events(self, job_id: str, *, after: int = 0) -> Sequence[Event]:
        """Everything that has happened to the job since event number `after`, in order."""
        path = f"{self._of(job_id)}/events"
        query: dict[str, Any] = {"order": "asc"}
        if after:
            query["after"] = f"{job_id}:{after}"
        return listed(self._transport, path, Event, limit=None, query=query)

    def stream(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Every event after number `after`, once and in order, as it happens; ends when the job is over. See follow."""
        return (event for event in self.follow(job_id, after=after) if event.id)

    def follow(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """What `stream` gives, and between it what the job does just now: events without an id, of no history.

        A broken connection is taken up where it broke.

        Raises:
            ApiError: there is no such job, or the key is wrong.
            Disconnected: the server stayed away.
        """
        path, seen, failures = f"{self._of(job_id)}/events", after, 0
        while True:
            try:
                with self._transport.lines(path, last_event_id=seen) as lines:
                    for message in messages(lines):
                        failures = 0
                        if message.event == "done":
                            return
                        if message.event == "progress":
                            yield _live(message.data, seq=seen)
                            continue
                        event = Event.model_validate_json(message.data)
                        if event.seq > seen:
                            seen = event.seq
                            yield event
                reason = "the stream ended early"
            except (Disconnected, Unreachable) as error:
                reason = str(error)
            except ApiError as error:
                if error.status not in RETRIED:
                    raise
                reason = str(error)
            failures += 1
            if failures == RECONNECT_TRIES:
                raise Disconnected(
                    f"lost the events of {job_id} after number {seen}: {reason}; the job itself goes on: "
                    f"`bitsmith watch {job_id}` follows it again"
                )
            time.sleep(RECONNECT_DELAYS_S[min(failures, len(RECONNECT_DELAYS_S)) - 1])

    def _act(self, job_id: str, action: str) -> Job:
        return Job.model_validate(self._transport.post(f"{self._of(job_id)}/{action}"))

    def _of(self, job_id: str) -> str:
        return f"{self._path}/{segment(job_id)}"


def _live(data: str, *, seq: int) -> Event:
    """How far the running stage is, in the form of an event, which it is not: it has no id and no number of its own."""
    facts = json.loads(data)
    return Event(
        id="",
        seq=seq,
        created_at=datetime.now(UTC),
        level="info",
        type="metrics",
        message=f"{facts['stage'].capitalize()}: {facts['done']}/{facts['total']}",
        data={"event": "progress", **facts},
    )


def _body(spec: JobSpec | Json) -> Json:
    return spec.model_dump(mode="json") if isinstance(spec, JobSpec) else spec
