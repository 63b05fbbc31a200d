"""Projects and API keys as methods."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from bitsmith_client.sdk.pages import listed, segment
from bitsmith_client.sdk.transport import Transport


class ApiKey(BaseModel):
    id: str
    name: str
    role: str
    scopes: list[str]  # empty: all that the role may
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    @property
    def state(self) -> str:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= datetime.now(UTC) else "active"


class IssuedApiKey(ApiKey):
    key: str


class Project(BaseModel):
    id: str
    name: str
    status: str
    limits: dict[str, int | None]  # None: the installation's
    weight: float
    created_at: datetime


class Keys:
    _path = "/v1/api_keys"

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, name: str, *, role: str = "member", scopes: Sequence[str] = (), expires_at: datetime | None = None
    ) -> IssuedApiKey:
        """A new key of this client's project. The answer is the only one that holds it."""
        body: dict[str, Any] = {"name": name, "role": role, "scopes": [*scopes]}
        if expires_at is not None:
            body["expires_at"] = int(expires_at.timestamp())
        return IssuedApiKey.model_validate(self._transport.post(self._path, body))

    def list(self, *, limit: int = 20) -> list[ApiKey]:
        """Newest first, revoked ones too."""
        return listed(self._transport, self._path, ApiKey, limit=limit)

    def revoke(self, key_id: str) -> ApiKey:
        return ApiKey.model_validate(self._transport.delete(f"{self._path}/{segment(key_id)}"))


class Projects:
    _path = "/v1/projects"

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, *, limits: dict[str, int | None] | None = None, weight: float = 1.0) -> Project:
        """Only with the installation's bootstrap key."""
        body = {"name": name, "limits": limits or {}, "weight": weight}
        return Project.model_validate(self._transport.post(self._path, body))

    def list(self, *, limit: int = 20) -> list[Project]:
        return listed(self._transport, self._path, Project, limit=limit)

    def get(self, project_id: str) -> Project:
        return Project.model_validate(self._transport.get(f"{self._path}/{segment(project_id)}"))

    def change(self, project_id: str, **changes: Any) -> Project:
        """name, weight, or limits: which are replaced as a whole."""
        return Project.model_validate(self._transport.patch(f"{self._path}/{segment(project_id)}", changes))

    def archive(self, project_id: str) -> Project:
        return Project.model_validate(self._transport.post(f"{self._path}/{segment(project_id)}/archive"))

    def restore(self, project_id: str) -> Project:
        return Project.model_validate(self._transport.post(f"{self._path}/{segment(project_id)}/restore"))
