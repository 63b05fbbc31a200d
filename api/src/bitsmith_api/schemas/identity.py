"""Projects, their keys, and the trail of what was done."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from bitsmith_core.clock import utc_now
from bitsmith_core.delivery import audit
from bitsmith_core.identity import keys, projects
from bitsmith_core.identity.keys import Issued
from bitsmith_core.identity.roles import Role
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix, unix_or_none

Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
]
_COUNT = Field(default=None, ge=0, lt=2**53, description="null: the installation's")


class ProjectLimits(BaseModel):
    """A project's own limits, over the installation's."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: int | None = Field(
        default=None, ge=1, lt=2**31, description="of each key; null: the installation's"
    )
    open_jobs: int | None = _COUNT
    running_jobs: int | None = _COUNT
    storage_bytes: int | None = _COUNT


class NewProject(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    limits: ProjectLimits = Field(default_factory=ProjectLimits)
    weight: float = Field(default=1.0, gt=0, le=1000, description="of its share of the GPUs: twice it, twice the share")


class ProjectChange(BaseModel):
    """What is left out stays as it is; `limits` are replaced as a whole."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    limits: ProjectLimits | None = None
    weight: float | None = Field(default=None, gt=0, le=1000)


class Project(Listed):
    """What owns files, jobs, models and keys; another project's things do not exist for it."""

    id: str = Field(examples=["proj-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["project"] = "project"
    name: str
    status: Literal["active", "archived"]
    limits: ProjectLimits
    weight: float
    created_at: UnixSeconds
    archived_at: UnixSeconds | None

    @classmethod
    def of(cls, row: projects.Project) -> Self:
        known = {name: row.limits.get(name) for name in ProjectLimits.model_fields}
        return cls(
            id=row.id,
            name=row.name,
            status="active" if row.archived_at is None else "archived",
            limits=ProjectLimits.model_validate(known),
            weight=row.weight,
            created_at=unix(row.created_at),
            archived_at=unix_or_none(row.archived_at),
        )


class ProjectList(Page[Project]):
    pass


class NewApiKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="what it is for", examples=["nightly runs"])
    role: Role = Field(default=Role.MEMBER, description="viewer: reads; member: works; admin: also keys and audit")
    scopes: list[str] = Field(
        default_factory=list,
        max_length=32,
        description="less than the role may, such as `jobs:read`; empty: all that the role may",
        examples=[["jobs:read", "files:write"]],
    )
    expires_at: int | None = Field(default=None, description="unix seconds; null: never")

    @field_validator("expires_at")
    @classmethod
    def _is_to_come(cls, value: int | None) -> int | None:
        if value is not None and not utc_now().timestamp() < value < 2**33:
            raise ValueError("a key expires at a time to come, in unix seconds")
        return value

    @property
    def expiry(self) -> datetime | None:
        return None if self.expires_at is None else datetime.fromtimestamp(self.expires_at, UTC)


class ApiKey(Listed):
    """A key without its secret, which nobody can show again."""

    id: str = Field(examples=["key-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["api_key"] = "api_key"
    name: str
    role: Role
    scopes: list[str] = Field(description="empty: all that the role may")
    created_by: str | None = Field(description="a key's id; null: the installation's bootstrap key")
    created_at: UnixSeconds
    expires_at: UnixSeconds | None
    last_used_at: UnixSeconds | None = Field(description="exact to a minute")
    revoked_at: UnixSeconds | None

    @classmethod
    def of(cls, row: keys.ApiKey) -> Self:
        return cls(**_facts(row))


class IssuedApiKey(ApiKey):
    """A key with its secret: the only answer that ever holds it."""

    key: str | None = Field(
        description="`bsk_…`; keep it now, it is not shown again: null when the same Idempotency-Key is used once more"
    )

    @classmethod
    def issued(cls, issued: Issued) -> Self:
        return cls(**_facts(issued.row), key=issued.key)


class ApiKeyList(Page[ApiKey]):
    pass


class AuditEvent(Listed):
    """Somebody changed something."""

    id: str = Field(examples=["audit-17"])
    object: Literal["audit_event"] = "audit_event"
    created_at: UnixSeconds
    actor: str = Field(description="a key's id, or `bootstrap`")
    action: str = Field(examples=["job.cancelled"])
    target: str = Field(description="the id of what it was done to")
    request_id: str | None
    address: str | None = Field(description="the client's")
    data: dict[str, Any]

    @classmethod
    def of(cls, row: audit.AuditEvent) -> Self:
        return cls(
            id=f"audit-{row.id}",
            created_at=unix(row.created_at),
            actor=row.actor,
            action=row.action,
            target=row.target,
            request_id=row.request_id,
            address=row.address,
            data=row.data,
        )


class AuditEventList(Page[AuditEvent]):
    pass


def _facts(row: keys.ApiKey) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "role": Role(row.role),
        "scopes": row.scopes,
        "created_by": row.created_by,
        "created_at": unix(row.created_at),
        "expires_at": unix_or_none(row.expires_at),
        "last_used_at": unix_or_none(row.last_used_at),
        "revoked_at": unix_or_none(row.revoked_at),
    }
