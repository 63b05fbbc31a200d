"""Names of things: a prefix and a time-ordered random number.

`ftjob-` + base32hex of a UUIDv7, lower case: sorts by creation time as text, is
a valid Kubernetes name and a safe path segment, and says what it names.
"""

import base64
import os
import re
import time
from typing import NewType

JobId = NewType("JobId", str)
FileId = NewType("FileId", str)
ModelId = NewType("ModelId", str)
ProjectId = NewType("ProjectId", str)
ApiKeyId = NewType("ApiKeyId", str)
UploadId = NewType("UploadId", str)
UploadPartId = NewType("UploadPartId", str)
CheckpointId = NewType("CheckpointId", str)
WebhookId = NewType("WebhookId", str)
DeliveryId = NewType("DeliveryId", str)
EvalId = NewType("EvalId", str)
JudgementId = NewType("JudgementId", str)

DEFAULT_PROJECT = ProjectId("proj-default")
"""There from the start; what an installation of one team uses."""

_BODY = "[0-9a-v]{26}"


def _mint(prefix: str) -> str:
    """RFC 9562 UUIDv7: 48 bits of unix milliseconds, then random; base32hex keeps the byte order as text order."""
    milliseconds = time.time_ns() // 1_000_000
    raw = bytearray(milliseconds.to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return f"{prefix}-{base64.b32hexencode(bytes(raw)).decode().rstrip('=').lower()}"


def new_job_id() -> JobId:
    return JobId(_mint("ftjob"))


def new_file_id() -> FileId:
    return FileId(_mint("file"))


def new_model_id() -> ModelId:
    return ModelId(_mint("model"))


def new_project_id() -> ProjectId:
    return ProjectId(_mint("proj"))


def new_api_key_id() -> ApiKeyId:
    return ApiKeyId(_mint("key"))


def new_upload_id() -> UploadId:
    return UploadId(_mint("upload"))


def new_upload_part_id() -> UploadPartId:
    return UploadPartId(_mint("part"))


def new_checkpoint_id() -> CheckpointId:
    return CheckpointId(_mint("ftckpt"))


def new_webhook_id() -> WebhookId:
    return WebhookId(_mint("wh"))


def new_delivery_id() -> DeliveryId:
    return DeliveryId(_mint("whd"))


def new_eval_id() -> EvalId:
    return EvalId(_mint("eval"))


def new_judgement_id() -> JudgementId:
    return JudgementId(_mint("judge"))


def new_webhook_event_id() -> str:
    return _mint("evt")


def new_chat_id() -> str:
    """Of one answer; nothing is stored under it."""
    return _mint("chatcmpl")


def is_file_id(text: str) -> bool:
    return re.fullmatch(f"file-{_BODY}", text) is not None


def is_job_id(text: str) -> bool:
    return re.fullmatch(f"ftjob-{_BODY}", text) is not None


def is_upload_id(text: str) -> bool:
    return re.fullmatch(f"upload-{_BODY}", text) is not None


def is_api_key_id(text: str) -> bool:
    return re.fullmatch(f"key-{_BODY}", text) is not None


def is_project_id(text: str) -> bool:
    return text == DEFAULT_PROJECT or re.fullmatch(f"proj-{_BODY}", text) is not None


def is_webhook_id(text: str) -> bool:
    return re.fullmatch(f"wh-{_BODY}", text) is not None


def is_delivery_id(text: str) -> bool:
    return re.fullmatch(f"whd-{_BODY}", text) is not None


def is_eval_id(text: str) -> bool:
    return re.fullmatch(f"eval-{_BODY}", text) is not None


def is_judgement_id(text: str) -> bool:
    return re.fullmatch(f"judge-{_BODY}", text) is not None
