"""What this operator watches, and what worker pods are made with. From BITSMITH_OPERATOR_*; read once at start."""

from pathlib import Path
from typing import Any, Literal

from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.settings import Settings
from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict


class PodDefaults(BaseModel):
    """What every worker pod has; the chart fills it in (JSON)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = Field(min_length=1)
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: list[dict[str, str]] = []
    service_account: str | None = None
    env: list[dict[str, Any]] = Field(default=[], description="the database, the queue, the store")
    env_from: list[dict[str, Any]] = []
    labels: dict[str, str] = Field(default={}, description="network policies select by these")
    security: dict[str, Any] = Field(default={}, description="user and groups of the pod")
    volumes: list[dict[str, Any]] = []
    volume_mounts: list[dict[str, Any]] = []


class OperatorSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_OPERATOR_", frozen=True)

    namespaces: tuple[str, ...] = Field(min_length=1, description="watched; one operator each (JSON list)")
    pods: PodDefaults = Field(description="of worker pods (JSON)")
    projects: dict[str, str] = Field(default={}, description="whose jobs a namespace's objects become (JSON)")
    default_project: str = Field(default=DEFAULT_PROJECT, description="of namespaces that projects does not name")
    max_open_jobs: int = Field(default=100, ge=0, description="of a project without a limit of its own")
    interval_s: float = Field(default=2, gt=0, description="pause between two looks at everything")
    gone_after_s: float = Field(
        default=10,
        ge=0,
        description="an object that is absent for so long was deleted",
    )
    status_every_s: float = Field(default=10, gt=0, description="progress is written at most so often")
    heartbeat: Path | None = Field(default=None, description="touched after each round; a liveness probe looks at it")
    kubeconfig: Path | None = Field(default=None, description="else the pod's service account")

    def project_of(self, namespace: str) -> str:
        return self.projects.get(namespace, self.default_project)
