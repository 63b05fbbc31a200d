"""Who is signed in."""

from typing import Literal

from bitsmith_core.identity.roles import Role
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from bitsmith_api.schemas.times import UnixSeconds


class Login(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: SecretStr = Field(min_length=1, max_length=1000, description="an API key")


class SessionInfo(BaseModel):
    object: Literal["session"] = "session"
    project: str = Field(examples=["proj-default"])
    project_name: str
    role: Role
    scopes: list[str] = Field(description="all that the key may do", examples=[["jobs:read"]])
    key_id: str | None = Field(description="null: the installation's bootstrap key")
    key_name: str | None
    is_installation: bool = Field(description="whether this may act in any project, by X-Bitsmith-Project")
    expires_at: UnixSeconds | None = Field(description="of the session; null for a request with a key")
