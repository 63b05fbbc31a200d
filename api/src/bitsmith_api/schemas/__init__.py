"""What the API answers, and how rows become it. Times are unix seconds, sizes bytes, as OpenAI's clients expect."""

from bitsmith_api.schemas.events import Event, EventList, event_id, event_seq, stream_done, stream_event
from bitsmith_api.schemas.files import File, FileDeleted, FileList
from bitsmith_api.schemas.health import Live, Readiness
from bitsmith_api.schemas.jobs import Job, JobList
from bitsmith_api.schemas.uploads import (
    PartUrl,
    PartUrlList,
    PartUrlRequest,
    Upload,
    UploadCompletion,
    UploadPart,
    UploadRequest,
)

__all__ = [
    "Event",
    "EventList",
    "File",
    "FileDeleted",
    "FileList",
    "Job",
    "JobList",
    "Live",
    "PartUrl",
    "PartUrlList",
    "PartUrlRequest",
    "Readiness",
    "Upload",
    "UploadCompletion",
    "UploadPart",
    "UploadRequest",
    "event_id",
    "event_seq",
    "stream_done",
    "stream_event",
]
