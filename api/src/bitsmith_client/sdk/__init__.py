"""The typed client of the REST API. Knows HTTP and the public shapes, nothing of servers, terminals or folders."""

from bitsmith_client.sdk.answers import (
    Attempt,
    Checkpoint,
    DryRun,
    Event,
    File,
    Job,
    Model,
    ModelFile,
    PartLink,
    Score,
    Series,
    StageFacts,
    Upload,
    Version,
)
from bitsmith_client.sdk.client import Bitsmith
from bitsmith_client.sdk.errors import ApiError, CorruptDownload, Disconnected, SdkError, Unreachable
from bitsmith_client.sdk.identity import ApiKey, IssuedApiKey, Project
from bitsmith_client.sdk.models import ModelFilter
from bitsmith_client.sdk.registry import Alias, AliasMove, AliasVerdict, Comparison, Facets, Lineage
from bitsmith_client.sdk.webhooks import Delivery, Webhook, WebhookWithSecret
from bitsmith_client.sdk.workers import Worker

__all__ = [
    "Alias",
    "AliasMove",
    "AliasVerdict",
    "ApiError",
    "ApiKey",
    "Attempt",
    "Bitsmith",
    "Checkpoint",
    "Comparison",
    "CorruptDownload",
    "Delivery",
    "Disconnected",
    "DryRun",
    "Event",
    "Facets",
    "File",
    "IssuedApiKey",
    "Job",
    "Lineage",
    "Model",
    "ModelFile",
    "ModelFilter",
    "PartLink",
    "Project",
    "Score",
    "SdkError",
    "Series",
    "StageFacts",
    "Unreachable",
    "Upload",
    "Version",
    "Webhook",
    "WebhookWithSecret",
    "Worker",
]
