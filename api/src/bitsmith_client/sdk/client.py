"""Bitsmith(url, key).files, .uploads, .jobs, .models: the API's resources as methods.

with Bitsmith("http://127.0.0.1:8000", key) as bitsmith:
    training = bitsmith.files.upload(Path("training.jsonl"))
    ...
    for event in bitsmith.jobs.stream(job.id):
        print(event.message)
"""

from pathlib import Path
from typing import Self

from bitsmith_client.sdk import download
from bitsmith_client.sdk.answers import File
from bitsmith_client.sdk.chat import Chat
from bitsmith_client.sdk.evals import Evals, Judgements
from bitsmith_client.sdk.identity import Keys, Projects
from bitsmith_client.sdk.jobs import Jobs
from bitsmith_client.sdk.models import Models
from bitsmith_client.sdk.pages import listed, segment
from bitsmith_client.sdk.transport import Transport
from bitsmith_client.sdk.uploads import PART_BYTES, Uploads
from bitsmith_client.sdk.webhooks import Webhooks
from bitsmith_client.sdk.workers import Workers


class Bitsmith:
    def __init__(self, base_url: str, api_key: str, *, project: str | None = None) -> None:
        """
        Args:
            project: to act in; only the installation's bootstrap key may choose one.
        """
        self._transport = Transport(base_url, api_key, project=project)
        self.base_url = self._transport.base_url
        self.files = Files(self._transport)
        self.uploads = Uploads(self._transport)
        self.jobs = Jobs(self._transport)
        self.models = Models(self._transport)
        self.evals = Evals(self._transport)
        self.judgements = Judgements(self._transport)
        self.chat = Chat(self._transport)
        self.keys = Keys(self._transport)
        self.projects = Projects(self._transport)
        self.webhooks = Webhooks(self._transport)
        self.workers = Workers(self._transport)

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
        """Send a JSONL file; a large one in parts.

        Raises:
            ApiError: invalid_file, naming each bad line.
        """
        if path.stat().st_size > PART_BYTES:
            return Uploads(self._transport).send(path, purpose=purpose)
        return File.model_validate(self._transport.post_file("/v1/files", path, {"purpose": purpose}))

    def list(self, *, limit: int = 20, purpose: str | None = None) -> list[File]:
        """Newest first."""
        query = {"purpose": purpose} if purpose is not None else {}
        return listed(self._transport, "/v1/files", File, limit=limit, query=query)

    def get(self, file_id: str) -> File:
        return File.model_validate(self._transport.get(f"/v1/files/{segment(file_id)}"))

    def content(self, file_id: str, path: Path) -> Path:
        """The file's bytes, verified, as `path`; an interrupted download goes on where it stopped.

        Raises:
            CorruptDownload: nothing was kept.
        """
        link = f"/v1/files/{segment(file_id)}/content"
        download.fetch_data(self._transport, self.get(file_id), path, link=lambda: self._transport.redirect(link))
        return path

    def delete(self, file_id: str) -> None:
        """For good.

        Raises:
            ApiError: conflict, while a job that is not over needs it.
        """
        self._transport.delete(f"/v1/files/{segment(file_id)}")
