"""The OpenAPI document is true: whatever it allows or forbids is answered as it says, and never with a 500.

Requests are drawn from the committed document by schemathesis, seeded, and sent to a live server about things that
exist; answers are held against the document.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import hypothesis
import pytest
import schemathesis
from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.settings import DatabaseSettings, StorageSettings
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy
from live_api import KEY, running_api
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.conftest import MANIFEST, Platform
from tests.api.test_judgements import request as judgement

Operation = schemathesis.APIOperation[Any, Any, Any, Any]
Case = schemathesis.Case[Any]

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
SEED = 1
EXAMPLES = 6  # of each mode, for each operation
HEADERS = {"Authorization": f"Bearer {KEY}", "X-Bitsmith-Project": "proj-default"}
CONFORMS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
]


def _operations() -> dict[str, Operation]:
    """Without what they say of keys: every request carries one, and what happens without has tests of its own."""
    document = json.loads(DOCUMENT.read_text())
    document["components"].pop("securitySchemes")
    for path in document["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
    schema = schemathesis.openapi.from_dict(document)
    operations = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), f"the document is wrong: {found}"
        operations.append(found.ok())
    return {operation.label: operation for operation in operations}


OPERATIONS = _operations()


@dataclass(frozen=True, slots=True)
class World:
    """Makes what an address may name."""

    client: httpx.Client
    platform: Platform

    def named_in(self, operation: Operation) -> dict[str, Any]:
        names = [parameter.name for parameter in operation.path_parameters]
        found = {name: self._make(name) for name in names if name != "delivery_id"}
        if "delivery_id" in names:
            found["delivery_id"] = self._post(f"/v1/webhooks/{found['webhook_id']}/ping")
        return found

    def _make(self, name: str) -> Any:
        makers: dict[str, Callable[[], Any]] = {
            "file_id": self.platform.upload,
            "job_id": self.platform.submit,
            "upload_id": lambda: self._post(
                "/v1/uploads", bytes=40, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune"
            ),
            "name": self._publish,
            "version": lambda: 1,
            "alias": self._alias,
            "project_id": lambda: self._post("/v1/projects", name="of somebody"),
            "key_id": lambda: self._post("/v1/api_keys", name="of somebody"),
            "worker": self._report,
            "webhook_id": lambda: self._post("/v1/webhooks", url="https://1.1.1.1/hook"),
            "path": lambda: MANIFEST.files[0].path,
            "eval_id": self._evaluate,
            "judgement_id": lambda: self._post("/v1/judgements", **judgement()),
        }
        return makers[name]()

    def _post(self, path: str, **body: Any) -> Any:
        answer = self.client.post(path, json=body or None)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def _report(self) -> str:
        with self.platform.database.transaction() as tx:
            jobs.workers.report(tx, name="gpu-0", device="cpu", local_models=[])
        return "gpu-0"

    def _alias(self) -> str:
        path, is_new = "/v1/models/tiny/aliases/prod", {"If-None-Match": "*"}
        answer = self.client.put(path, json={"version": 1}, headers=is_new)
        assert answer.status_code == 200, answer.text
        return "prod"

    def _evaluate(self) -> Any:
        self._publish()
        return self.client.get("/v1/evals").json()["data"][0]["id"]

    def _publish(self) -> str:
        self.platform.publish("tiny")
        return "tiny"


@pytest.fixture(scope="module")
def address(
    database_settings: DatabaseSettings, storage_settings: StorageSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with running_api(
        tmp_path_factory.mktemp("api"), database_settings, storage_settings,
        BITSMITH_API_REQUESTS_PER_MINUTE="1000000", BITSMITH_API_MAX_OPEN_JOBS="1000000",
    ) as address:  # fmt: skip
        yield address


@pytest.fixture
def world(address: str, database: Database) -> Iterator[World]:
    with httpx.Client(base_url=address, headers=HEADERS) as client:
        yield World(client, Platform(client=cast(Any, client), database=database))  # both clients post alike


@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_every_request_is_answered_as_documented(label: str, address: str, world: World) -> None:
    operation = OPERATIONS[label]
    known = world.named_in(operation)

    def send(case: Case) -> None:
        answer = case.call(base_url=address, headers=HEADERS)
        case.validate_response(answer, checks=CONFORMS)

    send_all(send, operation.as_strategy(GenerationMode.POSITIVE, path_parameters=known))
    if operation.body or operation.query:
        send_all(send, operation.as_strategy(GenerationMode.NEGATIVE, path_parameters=known))
    if known:  # things that are not there, under every name that can be written
        send_all(send, operation.as_strategy(GenerationMode.POSITIVE))


def send_all(send: Callable[[Case], None], cases: SearchStrategy[Case]) -> None:
    """The same requests each time, and no search for smaller ones: a bad one is printed as a curl command."""
    examples = hypothesis.settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    hypothesis.seed(SEED)(examples(hypothesis.given(case=cases)(send)))()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_boundaries_and_sequences_are_answered_as_documented(address: str, database: Database, tmp_path: Path) -> None:
    """schemathesis' own programme: every boundary of every field, then sequences in which answers feed requests."""
    checks = [check for check in CONFORMS if check is not negative_data_rejection]  # 0 may stand for false
    command = [
        str(Path(sys.prefix) / "bin" / "schemathesis"), "run", str(DOCUMENT), f"--url={address}", f"--seed={SEED}",
        "--phases=examples,coverage,stateful", "--max-examples=10", "--generation-database=none", "--no-color",
        "--continue-on-failure", f"--checks={','.join(check.__name__ for check in checks)}",
        *(f"--header={name}: {value}" for name, value in HEADERS.items()),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
