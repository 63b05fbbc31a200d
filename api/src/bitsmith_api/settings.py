"""The API's own settings, from BITSMITH_API_*. Where the servers are is bitsmith_core.settings."""

from datetime import timedelta

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ApiSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_API_", frozen=True, hide_input_in_errors=True)

    key: SecretStr = Field(min_length=8, description="bootstrap API key; everything under /v1 asks for it")
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 in a container")
    port: int = Field(default=8000, ge=0, le=65535)
    max_upload_bytes: int = Field(default=512 * 2**20, ge=1, description="largest training or validation file")
    download_expires_s: int = Field(
        default=3600, ge=1, le=604800, description="life of a download link; S3 signs for a week at most"
    )

    @property
    def download_expires(self) -> timedelta:
        return timedelta(seconds=self.download_expires_s)
