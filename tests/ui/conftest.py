"""The web UI as people meet it: a whole platform, a registry of some weeks, and a browser in front of them.

Nothing is intercepted: pages talk to the API, a worker runs a job of a toy model with the real engine, and what it
made answers in the chat. The browser is $CHROMIUM or the system's; `make test-ui` runs these tests.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import showcase
from bitsmith_client.lab.stack import Stack
from bitsmith_client.lab.state import LabConfig, LabState
from bitsmith_client.sdk import Bitsmith
from bitsmith_core.db import Database
from bitsmith_core.settings import DatabaseSettings, StorageSettings
from bitsmith_core.storage import S3Store
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright
from pydantic import SecretStr
from sqlalchemy import text
from toy_model import save_toy_model, write_examples

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / ".artifacts" / "ui"
PATIENCE_S = float(os.environ.get("UI_PATIENCE_S", "60"))  # for one thing to appear; CI shares its cores
WIDE, PHONE = (1360, 900), (390, 844)

expect.set_options(timeout=PATIENCE_S * 1000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.ui)
            item.add_marker(pytest.mark.timeout(900))


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A platform at work, and a job that it was given when it opened."""

    config: LabConfig
    toy_job: str
    folder: Path

    @property
    def url(self) -> str:
        return self.config.url

    @property
    def key(self) -> str:
        return self.config.api_key

    def client(self) -> Bitsmith:
        return Bitsmith(self.url, self.key)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="bitsmith-ui-"))  # as root, Postgres must be able to enter its parents
    folder.chmod(0o711)
    state = LabState(folder / "lab")
    state.prepare()
    save_toy_model(state.models / "toy")
    try:
        with Stack(state) as stack:
            _open_showcase(stack.config)
            _make_keys(stack.config)
            yield Site(config=stack.config, toy_job=_submit_toy_job(stack.config, folder), folder=folder)
        shutil.rmtree(stack.config.postgres_folder, ignore_errors=True)  # as root it lies elsewhere
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _open_showcase(config: LabConfig) -> None:
    """Weeks of a team's work. Its waiting jobs keep waiting: nobody can fetch their base models here."""
    database = Database(DatabaseSettings(url=SecretStr(config.database_url)))
    storage = StorageSettings(
        endpoint=config.s3_endpoint, access_key=config.s3_access_key, secret_key=SecretStr(config.s3_secret_key),
        secure=False,
    )  # fmt: skip
    with Bitsmith(config.url, config.api_key) as client:
        client.workers.drain("lab")
        showcase.fill(database, S3Store(storage))
        with database.transaction() as tx:
            tx.execute(text("UPDATE jobs SET not_before = now() + interval '1 day' WHERE status = 'queued'"))
        client.workers.undrain("lab")
    database.close()


QUICK = {
    "type": "qsft",
    "qsft": {
        "quantization": {"scheme": "layer-mix", "calibration_samples": 4},
        "training": {"epochs": 4, "batch_size": 4, "max_length": 64},
        "evaluation": {"perplexity_examples": 8, "multiple_choice": {"questions": 4, "choices": 2}},
    },
}


def _make_keys(config: LabConfig) -> None:
    """One in use by a program, one that was revoked."""
    with Bitsmith(config.url, config.api_key) as client:
        client.keys.create(name="evening sweeps", role="member")
        client.keys.revoke(client.keys.create(name="a laptop that was lost", role="viewer").id)


def _submit_toy_job(config: LabConfig, folder: Path) -> str:
    write_examples(folder / "numbers.jsonl", 64)
    write_examples(folder / "numbers-validation.jsonl", 16, offset=100)
    with Bitsmith(config.url, config.api_key) as client:
        files = {
            f"{part}_file": client.files.upload(folder / name).id
            for part, name in (("training", "numbers.jsonl"), ("validation", "numbers-validation.jsonl"))
        }
        return str(client.jobs.create({"model": "local:toy", "suffix": "numbers", "method": QUICK, **files}).id)


@pytest.fixture(scope="session")
def trained(site: Site) -> str:
    """The id of a job that has succeeded: it made toy-numbers@1."""
    with site.client() as client:
        for _ in client.jobs.stream(site.toy_job):
            pass
        job = client.jobs.get(site.toy_job)
    assert (job.status, job.fine_tuned_model) == ("succeeded", "toy-numbers@1"), job.error
    return site.toy_job


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(program).exists():
        pytest.exit(f"There is no {program}: run `apt-get install chromium`, or set CHROMIUM=/path/to/it.", 1)
    unsafe = ["--no-sandbox"] if os.geteuid() == 0 else []  # the sandbox refuses root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*unsafe, "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a page is shown, and to whom."""

    theme: Literal["light", "dark"] = "light"
    size: tuple[int, int] = WIDE
    language: Literal["en", "zh"] = "en"
    signed_in: bool = True


@pytest.fixture(scope="session")
def cookies(site: Site, browser: Browser) -> Any:
    """Those of somebody who signed in."""
    with browser.new_context(base_url=site.url) as context:
        answer = context.request.post("/v1/session", data={"key": site.key}, headers={"X-Bitsmith-CSRF": "1"})
        assert answer.ok, answer.text()
        return context.storage_state()


Open = Callable[[Look], BrowserContext]


@pytest.fixture(scope="session")
def open_browser(site: Site, browser: Browser, cookies: Any) -> Open:
    """A browser with a memory of its own: cookies, storage, cache."""

    def new(look: Look) -> BrowserContext:
        context = browser.new_context(
            base_url=site.url,
            storage_state=cookies if look.signed_in else None,
            viewport={"width": look.size[0], "height": look.size[1]},
            color_scheme=look.theme,
            locale={"en": "en-GB", "zh": "zh-CN"}[look.language],
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE_S * 1000)
        return context

    return new


Visit = Callable[..., Page]


@pytest.fixture
def visit(open_browser: Open) -> Iterator[Visit]:
    """visit("/ui/jobs", theme="dark") answers the loaded page in a browser of its own."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def go(path: str, **look: Any) -> Page:
        contexts.append(open_browser(Look(**look)))
        return loaded(contexts[-1], path, complaints)

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


def loaded(context: BrowserContext, path: str, complaints: list[str]) -> Page:
    """A page that has loaded; what goes wrong in it is added to the complaints."""

    def hear(message: ConsoleMessage) -> None:
        # The browser reports each answer of 400 and above; that a key is refused or a file gone is for the page to say.
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    page = context.new_page()
    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path)
    settled(page)
    return page


def settled(page: Page) -> None:
    """Wait until nothing on the page is still loading."""
    # A function, not an expression: the pages' policy forbids evaluating text.
    page.wait_for_function(
        "() => document.querySelector('h1') !== null && !document.querySelector('[aria-busy=true], .skeleton')"
    )


def take(page: Page, name: str) -> None:
    """A picture of the whole page among the artifacts."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def words(language: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(
        (ROOT / "api" / "src" / "bitsmith_api" / "ui" / "i18n" / f"{language}.json").read_text()
    )
    return found
