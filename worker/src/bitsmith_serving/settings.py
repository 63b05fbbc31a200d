"""How this service works. Read once at start from BITSMITH_SERVING_*, frozen, passed down."""

import os
import sys
from pathlib import Path
from typing import Literal

from bitsmith_core.settings import Settings
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


class ServingSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_SERVING_", frozen=True, hide_input_in_errors=True)

    token: SecretStr = Field(min_length=8, description="bearer token that the API shows; the same on both sides")
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 in a container")
    port: int = Field(default=8001, ge=0, le=65535)
    cache: Path = Field(description="folder for downloaded models; may be lost at any time")
    cache_bytes: int = Field(default=100 * 10**9, ge=1, description="what it may hold; least recently used go first")
    memory_bytes: int = Field(
        default_factory=_half_of_memory,
        ge=1,
        description="what all engines may take: the GPU's memory on a GPU; half of the machine's if unset",
    )
    engine_memory_bytes: int | None = Field(
        default=None, ge=1, description="what one engine may take; half of memory_bytes if unset"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    context_tokens: int = Field(default=4096, ge=16, description="prompt and answer together")
    parallel: int = Field(default=2, ge=1, description="answers that one engine writes at once")
    max_waiting: int = Field(default=32, ge=1, description="requests for one model at once; more are refused")
    idle_unload_s: float = Field(default=900, gt=0, description="an engine that nobody asks is ended after this")
    load_within_s: float = Field(default=900, gt=0, description="from the first request for a model to its engine")
    store_patience_s: float = Field(default=60, ge=0, description="how long the object store may be away")
    engine: tuple[str, ...] = Field(
        default=(sys.executable, "-m", "bitsmith_engine.chat"),
        min_length=1,
        description="command an engine is started with; FOLDER and options are added (JSON list)",
    )

    @property
    def one_engine_bytes(self) -> int:
        return self.engine_memory_bytes or self.memory_bytes // 2
