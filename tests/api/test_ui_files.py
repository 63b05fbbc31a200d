"""The web UI comes out of the API's own package: complete, checked for changes, and allowed to load nothing else."""

import gzip
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import bitsmith_api
import pytest
from bitsmith_core.db import Database
from bitsmith_core.storage import S3Store
from fastapi.testclient import TestClient

from tests.api.conftest import NO_STORE, NOWHERE, application, assert_problem

UI = Path(bitsmith_api.__file__).parent / "ui"
SCRIPTS = sorted(UI.rglob("*.js"))
WORDS = {name: json.loads((UI / "i18n" / f"{name}.json").read_text()) for name in ("en", "zh")}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """Of an API whose servers are away: these files need none."""
    with TestClient(application(Database(NOWHERE), S3Store(NO_STORE))) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/ui"])
def test_people_who_come_to_the_front_door_are_sent_to_the_ui(client: TestClient, path: str) -> None:
    answer = client.get(path, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) in {(307, "/ui/"), (308, "/ui/")}


@pytest.mark.parametrize("path", ["", "models", "models/llama-3.2.json", "models/a/versions/3", "compare", "anything"])
def test_every_address_of_a_view_answers_the_frame(client: TestClient, path: str) -> None:
    answer = client.get(f"/ui/{path}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == (UI / "index.html").read_text()


@pytest.mark.parametrize(
    "path", ["lib/none.js", "lib/%2e%2e/%2e%2e/auth.py", "lib/%2e%2e/index.html", "vendor/plotly.js", "style/"]
)
def test_a_file_that_is_not_there_is_not_found(client: TestClient, path: str) -> None:
    assert_problem(client.get(f"/ui/{path}"), 404, "not_found")


@pytest.mark.parametrize("file", [file.relative_to(UI).as_posix() for file in sorted(UI.rglob("*")) if file.is_file()])
def test_every_file_is_served_as_what_it_is(client: TestClient, file: str) -> None:
    kinds = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "json": "application/json",
             "svg": "image/svg+xml", "html": "text/html; charset=utf-8"}  # fmt: skip
    answer = client.get(f"/ui/{file}", headers={"Accept-Encoding": "identity"})
    assert (answer.status_code, answer.content) == (200, (UI / file).read_bytes())
    assert answer.headers["content-type"] == kinds[file.rpartition(".")[2]]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_unchanged_file_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/ui/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/ui/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert client.get("/ui/main.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_files_come_zipped_to_those_who_can_read_it(client: TestClient) -> None:
    with client.stream("GET", "/ui/main.js", headers={"Accept-Encoding": "gzip"}) as answer:
        zipped = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(zipped) == (UI / "main.js").read_bytes()


def test_pages_may_load_nothing_from_elsewhere_and_run_nothing_inline(client: TestClient) -> None:
    policy = dict(
        part.split(" ", 1) for part in client.get("/ui/models").headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    index = (UI / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=|https?://", index)


def test_plotly_is_the_installed_package_s_own(client: TestClient) -> None:
    answer = client.get("/ui/vendor/plotly.min.js")
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.text.startswith("/**\n* plotly.js v")
    assert len(answer.content) > 1_000_000, version("plotly")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_data_never_becomes_markup_or_code(script: Path) -> None:
    source = script.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", source)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_module_imports_what_is_there(script: Path) -> None:
    for target in re.findall(r'(?:from|import\()\s*"(\.[^"]+)"', script.read_text()):
        assert (script.parent / target).is_file(), target


def test_both_languages_say_the_same_things() -> None:
    assert list(WORDS["en"]) == list(WORDS["zh"])

    def holes(name: str) -> dict[str, list[str]]:
        return {key: sorted(set(re.findall(r"\{(\w+)\}", text))) for key, text in WORDS[name].items()}

    assert holes("en") == holes("zh")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_word_that_a_module_uses_is_there(script: Path) -> None:
    for key in re.findall(r'\bt\("([\w.]+)"|title = "([\w.]+)"', script.read_text()):
        name = key[0] or key[1]
        assert name in WORDS["en"] or f"{name}.other" in WORDS["en"], name


def test_plotly_writes_no_style_elements_of_its_own() -> None:
    """The pages' policy forbids them: plotly leaves them out where it finds what lib/plot.js puts there."""
    plotly = (files("plotly") / "package_data" / "plotly.min.js").read_text()
    used = (UI / "lib" / "plot.js").read_text()
    (maps,) = re.findall(r'MAP_RULES = "([0-9a-f]{64})"', used)
    assert f'getElementById("{maps}")' in plotly
    assert set(re.findall(r'getElementById\("([0-9a-f]{64})"\)', plotly)) == {maps}
    assert '.matches(".no-inline-styles")' in plotly
    assert "no-inline-styles" in used
