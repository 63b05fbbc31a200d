"""Large files in parts: straight into the object store, where the API puts them together.

upload = bitsmith.uploads.create(filename="training.jsonl", size_bytes=…)
for link in bitsmith.uploads.part_links(upload.id, sizes_bytes=[…]):
    bitsmith.uploads.put(link, content)
file = bitsmith.uploads.complete(upload.id, part_ids=[…]).file
"""

from collections.abc import Sequence
from pathlib import Path

from bitsmith_core.bundle import file_sha256

from bitsmith_client.sdk.answers import File, PartLink, Upload
from bitsmith_client.sdk.errors import SdkError
from bitsmith_client.sdk.pages import segment
from bitsmith_client.sdk.transport import Json, Transport

PART_BYTES = 64 * 2**20
LINKS_AT_ONCE = 100


class Uploads:
    _path = "/v1/uploads"

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, *, filename: str, size_bytes: int, purpose: str = "fine-tune", sha256: str | None = None
    ) -> Upload:
        """Announce a file; its parts may come until `expires_at`."""
        body: Json = {"filename": filename, "bytes": size_bytes, "purpose": purpose, "mime_type": "text/jsonl"}
        if sha256 is not None:
            body["sha256"] = sha256
        return Upload.model_validate(self._transport.post(self._path, body))

    def get(self, upload_id: str) -> Upload:
        return Upload.model_validate(self._transport.get(f"{self._path}/{segment(upload_id)}"))

    def part_links(self, upload_id: str, *, sizes_bytes: Sequence[int]) -> Sequence[PartLink]:
        answer = self._transport.post(f"{self._path}/{segment(upload_id)}/part_urls", {"bytes": [*sizes_bytes]})
        return [PartLink.model_validate(item) for item in answer["data"]]

    def put(self, link: PartLink, content: bytes) -> None:
        self._transport.put_link(link.url, content)

    def complete(
        self, upload_id: str, *, part_ids: Sequence[str], sha256: str | None = None, timeout_s: float = 600.0
    ) -> Upload:
        """Put the parts together, in this order. Every line is read, which takes a while.

        Raises:
            ApiError: invalid_file, naming each bad line; invalid_upload, naming each bad part.
        """
        body: Json = {"part_ids": [*part_ids], **({"sha256": sha256} if sha256 else {})}
        path = f"{self._path}/{segment(upload_id)}/complete"
        return Upload.model_validate(self._transport.post(path, body, timeout_s=timeout_s))

    def cancel(self, upload_id: str) -> Upload:
        return Upload.model_validate(self._transport.post(f"{self._path}/{segment(upload_id)}/cancel"))

    def send(self, path: Path, *, purpose: str = "fine-tune", part_bytes: int = PART_BYTES) -> File:
        """A whole file, part by part; nothing stays behind if it fails.

        Raises:
            ApiError: invalid_file, naming each bad line.
        """
        size_bytes, sha256 = path.stat().st_size, file_sha256(path)
        upload = self.create(filename=path.name, size_bytes=size_bytes, purpose=purpose, sha256=sha256)
        try:
            part_ids = self._send_parts(upload, path, part_bytes)
            file = self.complete(upload.id, part_ids=part_ids, sha256=sha256).file
        except SdkError:
            self.cancel(upload.id)
            raise
        if file is None:
            raise SdkError(f"{upload.id} is complete and the server names no file; was it deleted meanwhile?")
        return file

    def _send_parts(self, upload: Upload, path: Path, part_bytes: int) -> list[str]:
        starts = range(0, upload.bytes, part_bytes)
        sizes = [min(part_bytes, upload.bytes - start) for start in starts]
        part_ids: list[str] = []
        with path.open("rb") as content:
            for first in range(0, len(sizes), LINKS_AT_ONCE):
                for link in self.part_links(upload.id, sizes_bytes=sizes[first : first + LINKS_AT_ONCE]):
                    self.put(link, content.read(link.bytes))
                    part_ids.append(link.id)
        return part_ids
