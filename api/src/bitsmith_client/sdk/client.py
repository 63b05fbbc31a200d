"""Bitsmith(url, key).files, .jobs, .models: the API's resources as methods.

with Bitsmith("http://127.0.0.1:8000", key) as bitsmith:
    training = bitsmith.files.upload(Path("training.jsonl"))
    ...
    for event in bitsmith.jobs.stream(job.id):
        print(event.message)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

from bitsmith_core.spec import JobSpec
from pydantic import BaseModel

from bitsmith_client.sdk import download
from bitsmith_client.sdk.answers import Event, File, Job, Model, Version
from bitsmith_client.sdk.errors import ApiError, Disconnected, Unreachable
from bitsmith_client.sdk.stream import messages
from bitsmith_client.sdk.transport import RETRIED, Json, Transport

T = TypeVar("T", bound=BaseModel)

PAGE = 100
RECONNECT_TRIES = 12  # with the delays below: a server may be away for about a minute and a half
RECONNECT_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Bitsmith:
    def __init__(self, base_url: str, api_key: str) -> None:
        self._transport = Transport(base_url, api_key)
        self.base_url = self._transport.base_url
        self.files = Files(self._transport)
        self.jobs = Jobs(self._transport)
        self.models = Models(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def is_ready(self) -> bool:
        return self._transport.is_ok("/readyz")

    def metrics(self) -> str:
        """The server's numbers in Prometheus' text format."""
        return self._transport.text("/metrics")


class Files:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, path: Path, *, purpose: str = "fine-tune") -> File:
        """Send a JSONL file.

        Raises:
            ApiError: invalid_file, naming each bad line.
        """
        return File.model_validate(self._transport.post_file("/v1/files", path, {"purpose": purpose}))

    def list(self, *, limit: int = 20) -> list[File]:
        """Newest first."""
        return _listed(self._transport, "/v1/files", File, limit=limit)

    def get(self, file_id: str) -> File:
        return File.model_validate(self._transport.get(f"/v1/files/{_segment(file_id)}"))


class Jobs:
    _path = "/v1/fine_tuning/jobs"

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, spec: JobSpec | Json, *, idempotency_key: str | None = None) -> Job:
        """Submit a job, once: without a key one is made up, so that a broken connection does not make two jobs."""
        return Job.model_validate(self._transport.post(self._path, _body(spec), key=idempotency_key or str(uuid4())))

    def resolve(self, spec: JobSpec | Json) -> Json:
        """The spec with every default filled in; nothing is submitted.

        Raises:
            ApiError: invalid_spec, exactly as `create` would.
        """
        return self._transport.post(self._path, _body(spec), {"dry_run": "true"})

    def get(self, job_id: str) -> Job:
        return Job.model_validate(self._transport.get(f"{self._path}/{_segment(job_id)}"))

    def list(self, *, limit: int = 20, statuses: Sequence[str] = ()) -> list[Job]:
        """Newest first."""
        return _listed(self._transport, self._path, Job, limit=limit, query={"status": [*statuses]})

    def cancel(self, job_id: str) -> Job:
        return Job.model_validate(self._transport.post(f"{self._path}/{_segment(job_id)}/cancel"))

    def events(self, job_id: str, *, after: int = 0) -> Sequence[Event]:
        """Everything that has happened to the job since event number `after`, in order."""
        path = f"{self._path}/{_segment(job_id)}/events"
        query: dict[str, Any] = {"order": "asc"}
        if after:
            query["after"] = f"{job_id}:{after}"
        return _listed(self._transport, path, Event, limit=None, query=query)

    def stream(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Every event after number `after`, once and in order, as it happens; ends when the job is over.

        A broken connection is taken up where it broke.

        Raises:
            ApiError: there is no such job, or the key is wrong.
            Disconnected: the server stayed away.
        """
        path, seen, failures = f"{self._path}/{_segment(job_id)}/events", after, 0
        while True:
            try:
                with self._transport.lines(path, last_event_id=seen) as lines:
                    for message in messages(lines):
                        failures = 0
                        if message.event == "done":
                            return
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


class Models:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int = 20) -> list[Model]:
        return _listed(self._transport, "/v1/models", Model, limit=limit)

    def get(self, name: str) -> Model:
        """With all its versions, newest first."""
        return Model.model_validate(self._transport.get(f"/v1/models/{_segment(name)}"))

    def version(self, name: str, number: int) -> Version:
        """With files and fresh download links."""
        return Version.model_validate(self._transport.get(self.version_path(name, number)))

    def latest(self, name: str) -> Version:
        model = self.get(name)
        newest = model.latest.version if model.latest else max((v.version for v in model.versions), default=None)
        if newest is None:
            raise ApiError(status=404, code="not_found", detail=f"model {name!r} has no version")
        return self.version(name, newest)

    def download(
        self,
        version: Version,
        folder: Path,
        *,
        wanted: Callable[[str], bool] = lambda path: True,
        on_bytes: Callable[[int], None] = lambda received: None,
    ) -> Sequence[Path]:
        """Every wanted file of the version into folder, verified; what is there and complete is not fetched again.

        Raises:
            CorruptDownload: naming the file; nothing broken is left under a final name.
        """
        return download.fetch(
            self._transport,
            version,
            folder,
            wanted=wanted,
            on_bytes=on_bytes,
            fresh=lambda: self.version(version.model, version.version),
        )

    @staticmethod
    def version_path(name: str, number: int) -> str:
        return f"/v1/models/{_segment(name)}/versions/{number}"


def _listed(
    transport: Transport, path: str, kind: type[T], *, limit: int | None, query: dict[str, Any] | None = None
) -> list[T]:
    found: list[T] = []
    query = dict(query or {})
    for _ in count():
        query["limit"] = PAGE if limit is None else min(PAGE, limit - len(found))
        page = transport.get(path, query)
        found += [kind.model_validate(item) for item in page["data"]]
        if not page.get("has_more") or not page["data"] or (limit is not None and len(found) >= limit):
            break
        query["after"] = page["last_id"]
    return found


def _body(spec: JobSpec | Json) -> Json:
    return spec.model_dump(mode="json") if isinstance(spec, JobSpec) else spec


def _segment(text: str) -> str:
    return quote(text, safe="")
