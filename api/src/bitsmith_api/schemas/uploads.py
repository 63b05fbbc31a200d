"""An upload in parts: what clients ask for, and what they are answered."""

from typing import Annotated, Literal, Self

from bitsmith_core import files, uploads
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from bitsmith_api.schemas.files import File
from bitsmith_api.schemas.times import UnixSeconds, unix

_MEDIA_TYPES = frozenset(
    f"application/{name}"
    for name in ("json", "json-lines", "jsonl", "jsonlines", "ndjson", "octet-stream", "x-jsonlines", "x-ndjson")
)


def _text_type(sent: str) -> str:
    media_type = sent.partition(";")[0].strip().lower()
    if not media_type.startswith("text/") and media_type not in _MEDIA_TYPES:
        raise ValueError(f"files are JSON Lines, such as text/jsonl; {sent[:100]!r} is something else")
    return sent


MediaType = Annotated[str, Field(max_length=255, examples=["text/jsonl"]), AfterValidator(_text_type)]
Sha256 = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9a-fA-F]{64}$")]
Md5 = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9a-fA-F]{32}$")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UploadRequest(_Request):
    """A file that will come in parts."""

    bytes: int = Field(ge=1, description="of the whole file")
    filename: str = Field(examples=["training.jsonl"])
    mime_type: MediaType
    purpose: files.Purpose
    sha256: Sha256 | None = Field(default=None, description="of the whole file; checked when it is complete")


class PartUrlRequest(_Request):
    """Parts that go to the object store directly."""

    bytes: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1, max_length=1000, description="size of each part", examples=[[67108864, 1048576]]
    )


class UploadCompletion(_Request):
    """The parts, in the order of the file."""

    part_ids: list[str] = Field(min_length=1, max_length=10000)
    md5: Md5 | None = Field(default=None, description="of the whole file")
    sha256: Sha256 | None = Field(default=None, description="of the whole file")


class UploadPart(BaseModel):
    """A part that has arrived."""

    id: str = Field(examples=["part-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["upload.part"] = "upload.part"
    created_at: UnixSeconds
    upload_id: str

    @classmethod
    def of(cls, row: uploads.UploadPart) -> Self:
        return cls(id=row.id, created_at=unix(row.created_at), upload_id=row.upload_id)


class PartUrl(UploadPart):
    """Where to PUT a part, without a key, until it expires."""

    bytes: int
    url: str
    expires_at: UnixSeconds


class PartUrlList(BaseModel):
    object: Literal["list"] = "list"
    data: list[PartUrl]


class Upload(BaseModel):
    """A file on its way in, in parts."""

    id: str = Field(examples=["upload-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: UnixSeconds
    expires_at: UnixSeconds
    filename: str
    mime_type: str
    purpose: str
    sha256: str | None = Field(description="what the client says the whole file has")
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: File | None = Field(description="what it became")

    @classmethod
    def of(cls, row: uploads.Upload, file: files.File | None = None) -> Self:
        return cls.model_validate(
            {
                "id": row.id,
                "bytes": row.bytes,
                "created_at": unix(row.created_at),
                "expires_at": unix(row.expires_at),
                "filename": row.filename,
                "mime_type": row.mime_type,
                "purpose": row.purpose,
                "sha256": row.sha256,
                "status": row.status,
                "file": file and File.of(file),
            }
        )
