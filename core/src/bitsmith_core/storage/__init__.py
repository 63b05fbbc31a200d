"""Where artifacts live."""

from bitsmith_core.storage.base import ObjectInfo, ObjectStore
from bitsmith_core.storage.s3 import S3Store

__all__ = ["ObjectInfo", "ObjectStore", "S3Store"]
