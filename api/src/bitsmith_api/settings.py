"""The API's own settings, from BITSMITH_API_*. Where the servers are is bitsmith_core.settings."""

from datetime import timedelta

from bitsmith_core.identity.limits import Limits
from bitsmith_core.settings import Settings, WebhookSettings
from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import SettingsConfigDict


class ApiSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_API_", frozen=True, hide_input_in_errors=True)

    key: SecretStr = Field(min_length=8, description="bootstrap API key; everything under /v1 asks for it")
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 in a container")
    port: int = Field(default=8000, ge=0, le=65535)
    max_upload_bytes: int = Field(default=512 * 2**20, ge=1, description="largest file that may come in one request")
    max_part_bytes: int = Field(default=64 * 2**20, ge=1, description="largest part of an upload; OpenAI's size")
    max_multipart_bytes: int = Field(default=8 * 2**30, ge=1, description="largest file that may come in parts")
    upload_expires_s: int = Field(default=3600, ge=1, le=604800, description="time for all parts of an upload")
    download_expires_s: int = Field(
        default=3600, ge=1, le=604800, description="life of a download link; S3 signs for a week at most"
    )

    session_expires_s: int = Field(
        default=12 * 3600, ge=60, le=30 * 86400, description="how long a login of the web UI lasts"
    )

    webhooks: WebhookSettings = Field(
        default_factory=WebhookSettings.from_environment,
        description="BITSMITH_WEBHOOK_*, which the scheduler reads, too",
    )

    requests_per_minute: int = Field(default=3000, ge=1, description="of one API key; a project may have its own")
    max_open_jobs: int = Field(
        default=100, ge=0, description="of one project: queued, running or paused; a project may have its own"
    )
    max_storage_bytes: int = Field(default=2**40, ge=0, description="files of one project; a project may have its own")
    limits_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("limits_url", "BITSMITH_API_LIMITS_URL", "BITSMITH_QUEUE_URL"),
        description="Redis in which all API processes count requests together; without it each counts its own",
    )

    serving_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("serving_url", "BITSMITH_SERVING_URL"),
        description="where `python -m bitsmith_serving` answers; without it nobody can chat with models",
    )
    serving_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("serving_token", "BITSMITH_SERVING_TOKEN"),
        description="what the serving service knows the API by",
    )

    @property
    def limits(self) -> Limits:
        return Limits(
            requests_per_minute=self.requests_per_minute,
            open_jobs=self.max_open_jobs,
            storage_bytes=self.max_storage_bytes,
        )

    @property
    def download_expires(self) -> timedelta:
        return timedelta(seconds=self.download_expires_s)

    @property
    def session_expires(self) -> timedelta:
        return timedelta(seconds=self.session_expires_s)

    @property
    def upload_expires(self) -> timedelta:
        return timedelta(seconds=self.upload_expires_s)
