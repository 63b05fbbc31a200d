"""How programs are told things, and where the three servers are. Read once at start, frozen, passed down."""

import os
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError


class Settings(BaseSettings):
    """What a program is told by environment variables, which begin with the env_prefix of the class."""

    @classmethod
    def from_environment(cls) -> Self:
        """
        Raises:
            SystemExit: a variable is missing or makes no sense; the message names it, and never what it holds.
        """
        try:
            return cls()
        except ValidationError as error:
            wrong = [f"{cls._variable(part['loc'])}: {part['msg']}" for part in error.errors(include_input=False)]
        except SettingsError as error:  # JSON that is none
            wrong = [f"{cls._variable(())}: {error}"]
        raise SystemExit("\n".join(["the program cannot start with these environment variables:", *wrong]))

    @classmethod
    def are_given(cls) -> bool:
        """Whether there is any of their variables, for programs that do without."""
        return any(name.startswith(cls.model_config["env_prefix"]) for name in os.environ)

    @classmethod
    def _variable(cls, place: Sequence[int | str]) -> str:
        """The variable's name, and where in its JSON."""
        prefix = cls.model_config["env_prefix"]
        if not place:
            return f"{prefix}*"
        field, *inside = map(str, place)
        # Where a field goes by another name, pydantic says that one.
        name = f"{prefix}{field.upper()}" if field in cls.model_fields else field
        return ".".join([name, *inside])


class DatabaseSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_DATABASE_", frozen=True)

    url: SecretStr = Field(description="SQLAlchemy URL, postgresql+psycopg://user:password@host:port/name")
    pool_size: int = Field(default=5, ge=1, description="connections kept open per process")


class QueueSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_QUEUE_", frozen=True)

    url: SecretStr = Field(description="broker URL, redis://:password@host:port/0")


class WebhookSettings(Settings):
    """Shared by who takes the addresses of webhooks and who sends to them."""

    model_config = SettingsConfigDict(env_prefix="BITSMITH_WEBHOOK_", frozen=True)

    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description='JSON, ["10.0.0.0/8"]: networks that are not public and that webhooks may reach nevertheless, '
        "by plain http, too",
    )


class StorageSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_STORAGE_", frozen=True)

    endpoint: str = Field(description="host:port the platform's own processes reach the S3 server at")
    public_endpoint: str | None = Field(
        default=None, description="host:port signed into download links; endpoint if unset"
    )
    access_key: str
    secret_key: SecretStr
    bucket: str = "bitsmith"
    region: str = "us-east-1"  # explicit, so that signing never asks the server for it
    secure: bool = Field(default=True, description="https to endpoint")
    public_secure: bool | None = Field(default=None, description="https in download links; secure if unset")
