"""What routes are given: the servers, a transaction, a page's bounds, a request's checked content."""

from bitsmith_api.deps.audit import Audited
from bitsmith_api.deps.body import Changes, CheckedRequest
from bitsmith_api.deps.caller import FromCaller, require
from bitsmith_api.deps.etag import IfMatch, etag
from bitsmith_api.deps.filters import FromFilter
from bitsmith_api.deps.idempotency import Once
from bitsmith_api.deps.limits import FromQuota, Quota
from bitsmith_api.deps.parameters import Bounds, OrderedBounds, PathFileId, PathJobId, PathUploadId, checked_cursor
from bitsmith_api.deps.services import Services, SharedServices, Streams, Transaction
from bitsmith_api.deps.upload import Received, ReceivedPart, Upload

__all__ = [
    "Audited",
    "Bounds",
    "Changes",
    "CheckedRequest",
    "FromCaller",
    "FromFilter",
    "FromQuota",
    "IfMatch",
    "Once",
    "OrderedBounds",
    "PathFileId",
    "PathJobId",
    "PathUploadId",
    "Quota",
    "Received",
    "ReceivedPart",
    "Services",
    "SharedServices",
    "Streams",
    "Transaction",
    "Upload",
    "checked_cursor",
    "etag",
    "require",
]
