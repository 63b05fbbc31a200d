"""The typed client of the REST API. Knows HTTP and the public shapes, nothing of servers, terminals or folders."""

from bitsmith_client.sdk.answers import Event, File, Job, Model, ModelFile, Score, StageFacts, Version
from bitsmith_client.sdk.client import Bitsmith
from bitsmith_client.sdk.errors import ApiError, CorruptDownload, Disconnected, SdkError, Unreachable

__all__ = [
    "ApiError",
    "Bitsmith",
    "CorruptDownload",
    "Disconnected",
    "Event",
    "File",
    "Job",
    "Model",
    "ModelFile",
    "Score",
    "SdkError",
    "StageFacts",
    "Unreachable",
    "Version",
]
