"""Files that come in parts: collected in the store, checked as a whole, then a file like any other.

upload = uploads.create(tx, …)                  pending, for an hour
part = uploads.add_parts(tx, upload.id, …)      rows; their bytes go to part.object_key
plan = uploads.plan(tx, upload.id, part_ids)
whole = uploads.check(store, plan)              no transaction: gigabytes are read here
uploads.assemble(store, plan, whole)            nor here
upload, file = uploads.complete(tx, plan, whole)
"""

from bitsmith_core.db.models import Upload, UploadPart
from bitsmith_core.uploads.assembly import Plan, Whole, assemble, check
from bitsmith_core.uploads.repository import add_parts, belongs_to, cancel, complete, create, file_of, get, plan
from bitsmith_core.uploads.sweep import discard_parts, sweep

__all__ = [
    "Plan",
    "Upload",
    "UploadPart",
    "Whole",
    "add_parts",
    "assemble",
    "belongs_to",
    "cancel",
    "check",
    "complete",
    "create",
    "discard_parts",
    "file_of",
    "get",
    "plan",
    "sweep",
]
