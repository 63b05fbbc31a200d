"""How often the scheduler looks. Read once at start from BITSMITH_SCHEDULER_*."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SchedulerSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_SCHEDULER_", frozen=True)

    interval_s: float = Field(default=0.5, gt=0, description="pause between two looks at the database")
