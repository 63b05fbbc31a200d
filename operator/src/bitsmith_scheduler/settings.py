"""How often the scheduler looks, what it finds fair, and how long things are kept. From BITSMITH_SCHEDULER_*."""

from datetime import timedelta

from bitsmith_core.jobs import Policy
from bitsmith_core.settings import Settings
from pydantic import Field
from pydantic_settings import SettingsConfigDict


class SchedulerSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_SCHEDULER_", frozen=True)

    interval_s: float = Field(default=0.5, gt=0, description="pause between two looks at the database")

    usage_half_life_s: float = Field(
        default=2 * 86400, gt=0, description="after this a project's use of the devices counts half"
    )
    usage_sample_s: float = Field(default=5, gt=0, description="pause between two samples of what projects use")
    entry_penalty_s: float = Field(
        default=60, ge=0, description="device seconds that each start costs a project at once"
    )
    max_running_jobs: int | None = Field(
        default=None, ge=1, description="of one project at a time; running_jobs in a project's limits counts instead"
    )

    janitor_every_s: float = Field(default=3600, gt=0, description="pause between two looks through the object store")
    orphans_kept_s: float = Field(
        default=48 * 3600, ge=0, description="objects that nothing names are deleted after this"
    )
    checkpoints_kept_s: float = Field(default=7 * 86400, ge=0, description="from the end of their job")
    logs_kept_s: float = Field(default=30 * 86400, ge=0, description="from the end of their job")
    versions_kept: int | None = Field(
        default=None,
        ge=1,
        description="the newest so many of each model, and those that aliases, gates, judgements or evaluations name; "
        "all unless set",
    )
    answers_kept_s: float = Field(default=86400, ge=0, description="for how long an Idempotency-Key is remembered")

    @property
    def policy(self) -> Policy:
        return Policy(
            half_life=timedelta(seconds=self.usage_half_life_s),
            entry_penalty_s=self.entry_penalty_s,
            max_running=self.max_running_jobs,
        )
