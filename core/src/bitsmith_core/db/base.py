"""What every table shares: constraint names that migrations can rely on, UTC timestamps, JSONB."""

from datetime import datetime
from typing import Any

from sqlalchemy import DateTime, MetaData, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

from bitsmith_core import ids


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy's declared shape)
        datetime: DateTime(timezone=True),
        str: Text(),
        ids.ApiKeyId: Text(),
        ids.CheckpointId: Text(),
        ids.DeliveryId: Text(),
        ids.EvalId: Text(),
        ids.FileId: Text(),
        ids.JobId: Text(),
        ids.JudgementId: Text(),
        ids.ModelId: Text(),
        ids.ProjectId: Text(),
        ids.UploadId: Text(),
        ids.UploadPartId: Text(),
        ids.WebhookId: Text(),
        dict[str, Any]: JSONB(),
        list[dict[str, Any]]: JSONB(),
        list[str]: JSONB(),
        list[int]: JSONB(),
    }
