"""Files of a version, and how they are downloaded."""

from typing import Literal

from pydantic import BaseModel, Field

from bitsmith_api.schemas.times import UnixSeconds
from bitsmith_api.schemas.versions import ModelFile


class ModelFileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelFile] = Field(description="by path")
    download_expires_at: UnixSeconds


class ModelFileLink(ModelFile):
    download_expires_at: UnixSeconds
