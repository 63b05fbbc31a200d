"""Where the three servers are. Read once at start from BITSMITH_*, frozen, passed down."""

from ipaddress import IPv4Network, IPv6Network

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class DatabaseSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_DATABASE_", frozen=True)

    url: SecretStr = Field(description="SQLAlchemy URL, postgresql+psycopg://user:password@host:port/name")
    pool_size: int = Field(default=5, ge=1, description="connections kept open per process")


class QueueSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_QUEUE_", frozen=True)

    url: SecretStr = Field(description="broker URL, redis://:password@host:port/0")


class WebhookSettings(BaseSettings):
    """Shared by who takes the addresses of webhooks and who sends to them."""

    model_config = SettingsConfigDict(env_prefix="BITSMITH_WEBHOOK_", frozen=True)

    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description='JSON, ["10.0.0.0/8"]: networks that are not public and that webhooks may reach nevertheless, '
        "by plain http, too",
    )


class StorageSettings(BaseSettings):
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
