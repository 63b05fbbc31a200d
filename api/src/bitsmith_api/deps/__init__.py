"""What routes are given: the servers, a transaction, a page's bounds, a request's checked content."""

from bitsmith_api.deps.body import CheckedSpec
from bitsmith_api.deps.parameters import Bounds, PathFileId, PathJobId, checked_cursor
from bitsmith_api.deps.services import FromCaller, Services, SharedServices, Streams, Transaction
from bitsmith_api.deps.upload import Received, Upload

__all__ = [
    "Bounds",
    "CheckedSpec",
    "FromCaller",
    "PathFileId",
    "PathJobId",
    "Received",
    "Services",
    "SharedServices",
    "Streams",
    "Transaction",
    "Upload",
    "checked_cursor",
]
