"""OpenAI's own client, unmodified, over real sockets: against an API process alone, and against a whole lab.

Strict: its objects are built without looking, so `checked` asks its own models whether every field is there and right.
"""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from bitsmith_core.db import Database
from bitsmith_core.settings import DatabaseSettings, StorageSettings
from live_api import KEY, running_api

MAX_UPLOAD_BYTES = 100_000
EXAMPLE = b'{"prompt": "2 + 2?", "completion": "4"}\n'


@pytest.fixture(scope="module")
def address(
    database_settings: DatabaseSettings, storage_settings: StorageSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Of `python -m bitsmith_api`, with no scheduler, worker or serving behind it."""
    with running_api(
        tmp_path_factory.mktemp("api"), database_settings, storage_settings,
        BITSMITH_API_MAX_UPLOAD_BYTES=str(MAX_UPLOAD_BYTES),
    ) as address:  # fmt: skip
        yield address


@pytest.fixture
def sdk(address: str, database: Database) -> Iterator[openai.OpenAI]:
    """As its users make it: it tries again by itself where it thinks that helps. The database is emptied afterwards."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
        yield client


def post(sdk: openai.OpenAI, path: str, **body: Any) -> Any:
    """What OpenAI has no method for, through the same client."""
    return sdk.post(path, cast_to=object, body=body)


def upload(sdk: openai.OpenAI, name: str = "training.jsonl", content: bytes = EXAMPLE) -> str:
    return sdk.files.create(file=(name, content), purpose="fine-tune").id


def submit(sdk: openai.OpenAI, **arguments: Any) -> Any:
    """A job that nobody will run."""
    return sdk.fine_tuning.jobs.create(
        model="hf:org/tiny", training_file=upload(sdk), validation_file=upload(sdk, "validation.jsonl"), **arguments
    )


def checked(found: Any, kind: Any, *, leave_out: frozenset[str] = frozenset()) -> None:
    kind.model_validate(found.model_dump(exclude=set(leave_out), warnings=False))
