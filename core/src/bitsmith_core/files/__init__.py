"""Uploaded data files: content-addressed bytes in the store, one row per upload."""

from bitsmith_core.db.models import File
from bitsmith_core.files.content import PURPOSES, Purpose, check_name, validate, validate_path
from bitsmith_core.files.objects import check_stored, store_bytes, sweep
from bitsmith_core.files.repository import add, belongs_to, delete, get, object_key, page

__all__ = [
    "PURPOSES",
    "File",
    "Purpose",
    "add",
    "belongs_to",
    "check_name",
    "check_stored",
    "delete",
    "get",
    "object_key",
    "page",
    "store_bytes",
    "sweep",
    "validate",
    "validate_path",
]
