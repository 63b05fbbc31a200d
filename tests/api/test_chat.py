"""Chat completions as OpenAI's clients know them, answered by real engines through the real service."""

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from bitsmith_api.app import create_app
from bitsmith_api.settings import ApiSettings
from bitsmith_client.lab import servers
from bitsmith_client.lab.child import Child, ChildSpec
from bitsmith_core import registry
from bitsmith_core.bundle import MANIFEST, FileEntry, Manifest, describe_files
from bitsmith_core.db import Database
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.settings import StorageSettings
from bitsmith_core.storage import S3Store
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from toy_bundle import write_merged_bundle, write_native_bundle
from toy_model import save_toy_model

from tests.api.conftest import AUTHORIZED, KEY, Platform, assert_problem
from tests.api.conftest import MANIFEST as A_MANIFEST

TOKEN = "token-for-tests"
PATH = "/v1/chat/completions"
SCRIPTED = (sys.executable, str(Path(__file__).parents[1] / "serving" / "scripted_engine.py"))
QUESTION = [{"role": "user", "content": "7?"}]


@dataclass(frozen=True, slots=True)
class Service:
    url: str
    cache: Path

    def engines(self) -> Any:
        return httpx.get(f"{self.url}/v1/engines", headers={"Authorization": f"Bearer {TOKEN}"}).json()


StartService = Callable[..., Service]


@pytest.fixture(scope="module")
def start_service(
    storage_settings: StorageSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartService]:
    """start_service(engine=…) runs `python -m bitsmith_serving`."""
    children: list[Child] = []

    def start(**environment: str) -> Service:
        folder = tmp_path_factory.mktemp("serving")
        port = servers.free_port()
        url = f"http://127.0.0.1:{port}"
        spec = ChildSpec(
            name="serving",
            command=[sys.executable, "-m", "bitsmith_serving"],
            is_ready=lambda: not servers.is_free(port),
            environment={
                "BITSMITH_SERVING_PORT": str(port),
                "BITSMITH_SERVING_TOKEN": TOKEN,
                "BITSMITH_SERVING_CACHE": str(folder / "cache"),
                "BITSMITH_SERVING_DEVICE": "cpu",
                "BITSMITH_STORAGE_ENDPOINT": storage_settings.endpoint,
                "BITSMITH_STORAGE_ACCESS_KEY": storage_settings.access_key,
                "BITSMITH_STORAGE_SECRET_KEY": storage_settings.secret_key.get_secret_value(),
                "BITSMITH_STORAGE_SECURE": "false",
                **environment,
            },
        )
        child = Child(spec, folder)
        children.append(child)
        child.start()
        child.wait_ready()
        return Service(url, folder / "cache" / "models")

    yield start
    for child in children:
        child.stop()


@pytest.fixture(scope="module")
def scripted(start_service: StartService) -> Service:
    return start_service(BITSMITH_SERVING_ENGINE=json.dumps(SCRIPTED))


@pytest.fixture(scope="module")
def real(start_service: StartService) -> Service:
    return start_service()


def application(database: Database, store: S3Store, service: Service | None, token: str = TOKEN) -> FastAPI:
    url = service.url if service else None
    settings = ApiSettings(key=SecretStr(KEY), serving_url=url, serving_token=SecretStr(token))
    return create_app(settings=settings, database=database, store=store)


@pytest.fixture
def chatting(database: Database, store: S3Store) -> Iterator[Callable[[Service | None], TestClient]]:
    opened: list[TestClient] = []

    def make(service: Service | None, token: str = TOKEN) -> TestClient:
        client = TestClient(application(database, store, service, token), headers=AUTHORIZED)
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__()


Publish = Callable[..., Manifest]


@pytest.fixture
def publish(platform: Platform, store: S3Store, database: Database, tmp_path: Path) -> Publish:
    """publish("m", folder) makes a folder's files the next version of m; without one, a script's."""

    def make(name: str, folder: Path | None = None, **script: Any) -> Manifest:
        if folder is None:
            folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            (folder / "script.json").write_text(json.dumps({"folder": str(folder)} | script))
            (folder / "model.safetensors").write_bytes(b"w")
            (folder / "quantization.json").write_text("{}")
        files = describe_files(folder)
        manifest = A_MANIFEST.model_copy(update={"files": files})
        platform.publish(name, manifest)
        with database.transaction() as tx:
            stored = registry.get_version(tx, name, project=DEFAULT_PROJECT).files
        for file in stored:
            store.put_file(file.object_key, folder / file.path)
        return manifest

    return make


def chunks_of(text: str) -> list[dict[str, Any]]:
    """The stream's messages, the last one being [DONE]; comments are dropped."""
    messages = [part.removeprefix("data: ") for part in text.split("\n\n") if part.startswith("data: ")]
    assert messages[-1] == "[DONE]"
    return [json.loads(message) for message in messages[:-1]]


def test_an_answer_has_openais_shape(chatting: Any, scripted: Service, publish: Publish) -> None:
    manifest = publish("m", words=["Hel", "lo"])
    answer = chatting(scripted).post(PATH, json={"model": "m", "messages": QUESTION})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.pop("id").startswith("chatcmpl-")
    assert abs(body.pop("created") - time.time()) < 60
    assert body == {
        "object": "chat.completion",
        "model": "m@1",
        "system_fingerprint": f"fp_{manifest.sha256[:16]}",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


def test_a_stream_comes_in_openais_chunks(chatting: Any, scripted: Service, publish: Publish) -> None:
    publish("m", words=["Hel", "lo"])
    answer = chatting(scripted).post(PATH, json={"model": "m@1", "messages": QUESTION, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    chunks = chunks_of(answer.text)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, {},
    ]  # fmt: skip
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("chat.completion.chunk", "m@1")}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_comes_last_when_it_is_asked_for(chatting: Any, scripted: Service, publish: Publish) -> None:
    publish("m")
    body = {"model": "m", "messages": QUESTION, "stream": True, "stream_options": {"include_usage": True}}
    *others, last = chunks_of(chatting(scripted).post(PATH, json=body).text)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert all(chunk["usage"] is None for chunk in others)


def test_the_request_reaches_the_engine_as_it_was_meant(chatting: Any, scripted: Service, publish: Publish) -> None:
    manifest = publish("m")
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "7"}, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "odd", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "8?"},
    ]
    settings = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "presence_penalty": 1, "frequency_penalty": -1}
    body = {
        "model": "m",
        "messages": messages,
        **settings,
        "max_completion_tokens": 5,
        "stop": "\n",
        "user": "me",
        "n": 1,
    }
    assert chatting(scripted).post(PATH, json=body).status_code == 200
    (line,) = (scripted.cache / manifest.sha256 / "heard.jsonl").read_text().splitlines()
    assert json.loads(line)["prompt"] == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "7?"},
            {"role": "assistant", "content": "odd"},
            {"role": "user", "content": "8?"},
        ],
        "sampling": settings,
        "max_tokens": 5,
        "stop": ["\n"],
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [("n", 2), ("logprobs", True), ("tools", [{"type": "function"}]), ("response_format", {"type": "json_object"})],
)
def test_what_is_not_supported_is_refused_by_name(chatting: Any, field: str, value: Any) -> None:
    answer = chatting(None).post(PATH, json={"model": "m", "messages": QUESTION, field: value})
    document = assert_problem(answer, 422, "invalid_request", f"/{field}")
    assert document["errors"][0]["code"] == "unsupported_parameter"
    assert document["error"]["param"] == field


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"messages": []}, "/messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "/messages/0/role"),
        ({"temperature": 3}, "/temperature"),
        ({"stop": [""]}, "/stop/0"),
        ({"max_completion_tokens": 0}, "/max_completion_tokens"),
        ({"frobnicate": 1}, "/frobnicate"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_place(chatting: Any, change: dict[str, Any], pointer: str) -> None:
    answer = chatting(None).post(PATH, json={"model": "m", "messages": QUESTION} | change)
    assert_problem(answer, 422, "invalid_request", pointer)


def test_names_find_the_newest_version_and_numbers_their_own(
    chatting: Any, scripted: Service, publish: Publish
) -> None:
    publish("m", words=["one"])
    publish("m", words=["two"])
    client = chatting(scripted)
    answers = {
        model: client.post(PATH, json={"model": model, "messages": QUESTION}).json() for model in ("m", "m@1", "m@2")
    }
    assert {model: body["choices"][0]["message"]["content"] for model, body in answers.items()} == {
        "m": "two", "m@1": "one", "m@2": "two",
    }  # fmt: skip
    assert answers["m"]["model"] == "m@2"


@pytest.mark.parametrize("model", ["unknown", "m@9", "m@x", "m@", "m@1@1", "../m"])
def test_a_model_that_is_not_there_is_404(chatting: Any, publish: Publish, model: str) -> None:
    publish("m")
    assert_problem(chatting(None).post(PATH, json={"model": model, "messages": QUESTION}), 404, "not_found")


def test_without_a_service_the_answer_says_how_to_get_one(chatting: Any, publish: Publish) -> None:
    publish("m")
    for stream in (False, True):
        answer = chatting(None).post(PATH, json={"model": "m", "messages": QUESTION, "stream": stream})
        document = assert_problem(answer, 503, "chat_unavailable")
        assert "BITSMITH_SERVING_URL" in document["detail"]


def test_a_service_that_is_away_or_does_not_know_us_is_503(chatting: Any, scripted: Service, publish: Publish) -> None:
    publish("m")
    away = Service(f"http://127.0.0.1:{servers.free_port()}", Path())
    for client, advice in ((chatting(away), "does not answer"), (chatting(scripted, "wrong-token"), "token")):
        answer = client.post(PATH, json={"model": "m", "messages": QUESTION})
        assert advice in assert_problem(answer, 503, "chat_unavailable")["detail"]


def test_a_version_that_cannot_be_opened_says_why(chatting: Any, scripted: Service, publish: Publish) -> None:
    publish("m", fails="its codes are damaged")
    for stream in (False, True):
        answer = chatting(scripted).post(PATH, json={"model": "m", "messages": QUESTION, "stream": stream})
        document = assert_problem(answer, 409, "unusable_model")
        assert document["detail"] == "its codes are damaged"
        assert not document["retryable"]


def test_an_engine_that_dies_in_mid_stream_is_told_in_the_stream(
    chatting: Any, scripted: Service, publish: Publish
) -> None:
    publish("m", words=["x", "y"], dies_after=1)
    client = chatting(scripted)
    answer = client.post(PATH, json={"model": "m", "messages": QUESTION, "stream": True})
    last = answer.text.strip().split("\n\n")[-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["code"], error["retryable"]) == ("engine_died", True)
    whole = client.post(PATH, json={"model": "m", "messages": QUESTION})
    assert assert_problem(whole, 503, "engine_died")["retryable"]


@pytest.fixture
def listening(database: Database, store: S3Store, scripted: Service) -> Iterator[str]:
    """The API on a socket, which a client can hang up on."""
    port = servers.free_port()
    config = uvicorn.Config(application(database, store, scripted), port=port, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("stream", [True, False])
def test_generation_stops_when_the_client_leaves(
    listening: str, scripted: Service, publish: Publish, stream: bool
) -> None:
    manifest = publish("m", words=["x"] * 3000, pause_s=0.02)
    body = {"model": "m", "messages": QUESTION, "stream": stream}
    heard = scripted.cache / manifest.sha256 / "heard.jsonl"
    deadline = time.monotonic() + 60  # an engine starts first

    def wait_for(word: str) -> None:
        while not (heard.is_file() and word in heard.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    address = httpx.URL(listening)
    connection = http.client.HTTPConnection(address.host, address.port)
    connection.request("POST", PATH, json.dumps(body), AUTHORIZED | {"Content-Type": "application/json"})
    wait_for("ask")
    connection.close()
    wait_for("cancel")
    assert [engine["users"] for engine in scripted.engines() if engine["manifest_sha256"] == manifest.sha256] == [0]


@pytest.mark.parametrize("write", [write_native_bundle, write_merged_bundle])
def test_published_bundles_are_really_answered_from(
    chatting: Any, real: Service, publish: Publish, tmp_path: Path, write: Callable[[Path, Path], Manifest]
) -> None:
    save_toy_model(tmp_path / "base")
    write(tmp_path / "base", tmp_path / "bundle")
    (tmp_path / "bundle" / MANIFEST).unlink()
    publish("toy", tmp_path / "bundle")
    client = chatting(real)
    body = {"model": "toy", "messages": QUESTION, "seed": 1, "max_tokens": 12}
    first, again = (client.post(PATH, json=body).json() for _ in range(2))
    assert first["usage"] == {"prompt_tokens": 23, "completion_tokens": 12, "total_tokens": 35}
    assert first["choices"] == again["choices"]
    assert first["choices"][0]["finish_reason"] == "length"
    chunks = chunks_of(client.post(PATH, json=body | {"stream": True}).text)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == first["choices"][0]["message"]["content"]
    long = client.post(PATH, json=body | {"messages": [{"role": "user", "content": "?" * 300}]})
    assert "context holds 256" in assert_problem(long, 422, "context_length_exceeded", "/messages")["detail"]


def test_the_service_answers_its_api_only(scripted: Service) -> None:
    for headers in ({}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": TOKEN}):
        assert httpx.post(f"{scripted.url}/v1/generate", json={}, headers=headers).status_code == 401
        assert httpx.get(f"{scripted.url}/v1/engines", headers=headers).status_code == 401


def test_a_bundle_with_nothing_to_chat_with_is_409(chatting: Any, scripted: Service, platform: Platform) -> None:
    adapter = FileEntry(path="adapter/adapter_model.safetensors", bytes=1, sha256="0" * 64)
    platform.publish("adapter", A_MANIFEST.model_copy(update={"files": [adapter]}))
    answer = chatting(scripted).post(PATH, json={"model": "adapter", "messages": QUESTION})
    assert_problem(answer, 409, "model_not_chattable")
