"""The custom resources of group bitsmith.dev/v1alpha1 as this operator reads them; `crds` defines them from these."""

from datetime import datetime
from typing import Annotated, Any, Literal

from bitsmith_core.pools import DEFAULT_POOL, PoolName
from bitsmith_core.spec import JobSpec
from pydantic import AliasGenerator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

GROUP = "bitsmith.dev"
VERSION = "v1alpha1"
WORKER_LABEL = f"{GROUP}/worker"  # of a Job's pods: how the worker among them is called
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

Raw = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""A piece of a pod, as Kubernetes has it; the API server checks it when the pod is made."""
RawList = Annotated[
    list[dict[str, Any]],
    Field(json_schema_extra={"items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}),
]


class _Object(BaseModel):
    """Unknown fields are left to the API server, which prunes them; an older operator must read newer objects."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=AliasGenerator(alias=to_camel), populate_by_name=True
    )


class Meta(_Object):
    name: str
    namespace: str
    uid: str
    generation: int = 1
    creation_timestamp: datetime | None = None


class FineTuneJobSpec(_Object):
    """A job as the REST API takes it (all other fields), and what only a cluster knows."""

    suspend: bool = Field(default=False, description="pause the job; it goes on from its checkpoint when false again")
    priority: int = Field(default=0, ge=-100, le=100, description="higher goes first; may be changed")
    ttl_seconds_after_finished: int | None = Field(
        default=None, ge=0, description="this object is deleted so long after the job's end; the job's history stays"
    )
    deletion_policy: Literal["Cancel", "Orphan"] = Field(
        default="Cancel", description="what becomes of an open job when this object is deleted"
    )


OWN_FIELDS = tuple(FineTuneJobSpec.model_fields[name].alias or name for name in FineTuneJobSpec.model_fields)


class FineTuneJob(_Object):
    metadata: Meta
    spec: FineTuneJobSpec
    request: dict[str, Any]  # the rest of the spec: what a JobSpec is read from
    status: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def read(cls, body: dict[str, Any]) -> "FineTuneJob":
        spec = dict(body.get("spec") or {})
        request = {name: value for name, value in spec.items() if name not in OWN_FIELDS}
        return cls.model_validate(
            {"metadata": body["metadata"], "spec": spec, "request": request, "status": body.get("status") or {}}
        )

    def job_spec(self) -> JobSpec:
        """
        Raises:
            pydantic.ValidationError: the request is impossible.
        """
        return JobSpec.model_validate(self.request)


class WorkerPoolSpec(_Object):
    """Worker pods of one kind. They take the jobs that name their `pool`; several WorkerPools may be of one pool."""

    pool: PoolName = Field(
        default=DEFAULT_POOL, description="of workers, by name: the pods take jobs whose resources.pool says it"
    )
    mode: Literal["resident", "job"] = Field(
        default="resident",
        description="resident: pods that take one job after the other. job: a Kubernetes Job for each attempt, which "
        "Kueue can admit",
    )
    nodes: int = Field(
        default=1, ge=1, le=64, description="with mode job: pods that train together for one attempt (an Indexed Job)"
    )
    min_workers: int = Field(default=0, ge=0, le=10_000, description="kept even when there is nothing to do")
    max_workers: int = Field(default=1, ge=0, le=10_000)
    order: int = Field(default=0, ge=-1000, le=1000, description="pools with a lower one are filled first")
    idle_seconds: int = Field(default=300, ge=0, le=86400, description="a worker too many is kept warm for so long")
    image: str | None = Field(default=None, min_length=1, description="the operator's default if unset")
    resources: Raw = Field(default={}, description="requests and limits of the container, GPUs and MIG slices too")
    env: RawList = Field(default=[], description="more environment, over the operator's")
    node_selector: dict[str, str] = Field(default={})
    tolerations: RawList = Field(default=[])
    affinity: Raw = Field(default={})
    runtime_class_name: str | None = Field(default=None, description="such as nvidia")
    priority_class_name: str | None = None
    service_account_name: str | None = None
    labels: dict[str, str] = Field(default={}, description="of the pods; kueue.x-k8s.io/queue-name goes here")
    annotations: dict[str, str] = Field(default={})
    shared_memory: str | None = Field(default=None, description="size of /dev/shm, such as 8Gi")
    scratch: str = Field(default="50Gi", description="size limit of the scratch folder, which goes with the pod")
    volumes: RawList = Field(default=[])
    volume_mounts: RawList = Field(default=[])
    termination_grace_period_seconds: int = Field(
        default=120, ge=1, le=86400, description="for the last checkpoint of a pod that is told to go"
    )

    @model_validator(mode="after")
    def _least_is_least(self) -> "WorkerPoolSpec":
        if self.min_workers > self.max_workers:
            raise ValueError(f"minWorkers {self.min_workers} is more than maxWorkers {self.max_workers}")
        if self.mode == "job" and self.min_workers:
            raise ValueError(f"minWorkers is {self.min_workers}, but a pool of mode job keeps no workers; leave it out")
        if self.mode == "resident" and self.nodes > 1:
            raise ValueError(f"nodes is {self.nodes}, but only pools of mode job have several; set mode: job")
        return self

    @property
    def is_queued(self) -> bool:
        """Whether Kueue says when a Job of this pool starts."""
        return QUEUE_LABEL in self.labels


class WorkerPool(_Object):
    metadata: Meta
    spec: WorkerPoolSpec
    status: dict[str, Any] = Field(default_factory=dict)
