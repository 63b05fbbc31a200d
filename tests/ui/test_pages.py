"""Every page, by day, by night and on a phone: it fits, everybody can read it, and no word is missing.

Pictures of all of them are left in .artifacts/ui for people to look at.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Literal

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.ui.conftest import PHONE, ROOT, Look, Open, Site, Visit, loaded, settled, take, words

AXE = ROOT / ".cache" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
SUPPORT = "/ui/models/qwen3-8b-support"
PAGES = {
    "login": "/ui/login",
    "models": "/ui/models",
    "models-filtered": "/ui/models?tag=support&scheme=layer-mix&size_bytes[lte]=4000000000&sort=-score:piqa",
    "models-none": "/ui/models?q=nothing-is-called-so",
    "model": SUPPORT,
    "version": f"{SUPPORT}/versions/3",
    "version-against": f"{SUPPORT}/versions/4?against=qwen3-8b-support@3",
    "version-bits": f"{SUPPORT}/versions/3?tab=bits",
    "version-training": f"{SUPPORT}/versions/3?tab=training",
    "version-files": f"{SUPPORT}/versions/3?tab=files",
    "version-use": f"{SUPPORT}/versions/3?tab=use",
    "version-chat": "/ui/models/toy-numbers/versions/1?tab=chat",
    "compare": "/ui/compare?a=qwen3-8b-support@4&b=qwen3-8b-support@1",
    "compare-empty": "/ui/compare",
    "jobs": "/ui/jobs",
    "job-running": "/ui/jobs/{running}",
    "job-running-curves": "/ui/jobs/{running}?tab=curves",
    "job-queued": "/ui/jobs/{queued}",
    "job-failed": "/ui/jobs/{failed}",
    "job": "/ui/jobs/{trained}",
    "job-curves": "/ui/jobs/{trained}?tab=curves",
    "job-log": "/ui/jobs/{trained}?tab=log",
    "job-attempts": "/ui/jobs/{trained}?tab=attempts",
    "job-checkpoints": "/ui/jobs/{running}?tab=checkpoints",
    "job-memory": "/ui/jobs/{trained}?tab=memory",
    "job-request": "/ui/jobs/{trained}?tab=request",
    "job-new": "/ui/jobs/new",
    "job-clone": "/ui/jobs/new?from={trained}",
    "files": "/ui/files",
    "workers": "/ui/workers",
    "keys": "/ui/keys",
    "not-found": "/ui/nowhere",
}  # fmt: skip


@pytest.fixture(scope="session")
def address(site: Site, trained: str) -> Callable[[str], str]:
    """The path of a page's name, its jobs being some that are there."""
    with site.client() as client:
        found = {job.status: job.id for job in client.jobs.list()}
    return lambda name: PAGES[name].format(**(found | {"trained": trained}))


@pytest.fixture(scope="module")
def show(open_browser: Open, address: Callable[[str], str]) -> Iterator[Callable[[str, Look], Page]]:
    """show("jobs", look) answers the loaded page; equal looks share a browser, whose cache makes it quick."""
    contexts: dict[Look, BrowserContext] = {}
    complaints: list[str] = []

    def open_page(name: str, look: Look) -> Page:
        look = replace(look, signed_in=name != "login")
        context = contexts.get(look) or contexts.setdefault(look, open_browser(look))
        page = loaded(context, address(name), complaints)
        assert complaints == []
        return page

    yield open_page
    for context in contexts.values():
        context.close()
    assert complaints == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_by_day_and_by_night(show: Callable[[str, Look], Page], name: str) -> None:
    with closing(show(name, Look())) as page:
        themes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for theme in themes:
            page.emulate_media(color_scheme=theme)
            settled(page)
            take(page, f"{name}-{theme}")
            assert serious(page) == [], theme
        assert overhang(page) == []
        assert raw_keys(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone(show: Callable[[str, Look], Page], name: str) -> None:
    with closing(show(name, Look(size=PHONE))) as page:
        take(page, f"{name}-phone")
        assert overhang(page) == []
        assert serious(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_a_chinese_word_for_everything(show: Callable[[str, Look], Page], name: str) -> None:
    with closing(show(name, Look(language="zh"))) as page:
        assert raw_keys(page) == []
        assert english_left(page) == []


def test_people_switch_to_chinese_and_back(visit: Visit) -> None:
    page = visit("/ui/jobs")
    page.get_by_role("button", name="中文").click()
    page.get_by_role("heading", level=1, name=words("zh")["jobs.title"]).wait_for()
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    page.reload()
    page.get_by_role("heading", level=1, name=words("zh")["jobs.title"]).wait_for()
    page.get_by_role("button", name="English").click()
    page.get_by_role("heading", level=1, name=words("en")["jobs.title"]).wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_chosen_theme_stays_whatever_the_system_prefers(visit: Visit, theme: Literal["light", "dark"]) -> None:
    page = visit("/ui/models", theme="dark" if theme == "light" else "light")
    body = page.locator("body")
    systems = str(body.evaluate("node => getComputedStyle(node).backgroundColor"))
    page.get_by_role("button", name=words("en")[f"theme.{theme}"], exact=True).click()
    expect(body).not_to_have_css("background-color", systems)
    page.reload()
    settled(page)
    expect(body).not_to_have_css("background-color", systems)
    page.get_by_role("button", name=words("en")["theme.system"], exact=True).click()
    expect(body).to_have_css("background-color", systems)


def test_every_curve_has_a_name_in_words(show: Callable[[str, Look], Page]) -> None:
    with closing(show("job-curves", Look())) as page:
        titles = page.locator(".plot-title").all_inner_texts()
        assert len(titles) > 5
        assert [title for title in titles if "_" in title] == []


def overhang(page: Page) -> list[str]:
    """What makes the whole page scroll sideways; nothing where it does not."""
    found: list[str] = page.evaluate(
        """() => {
          const root = document.documentElement;
          if (root.scrollWidth <= root.clientWidth) return [];
          return [...document.querySelectorAll("body *")]
            .filter((node) => node.getBoundingClientRect().right > root.clientWidth + 1)
            .slice(0, 8).map((node) => `${node.tagName}.${node.className} ${node.textContent.slice(0, 40)}`);
        }"""
    )
    return found


def serious(page: Page) -> list[str]:
    """What axe-core calls serious or critical, each with where it is."""
    if not AXE.is_file():
        pytest.exit(f"There is no {AXE}: run `make test-ui`, which fetches axe-core.", 1)
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


SPOKEN = """() => {
  const attributes = ["aria-label", "placeholder", "title", "alt"];
  const nodes = [...document.querySelectorAll("body *")];
  return nodes.filter((node) => !node.closest("pre, code, .mono"))
    .flatMap((node) => [...attributes.map((name) => node.getAttribute(name) ?? ""),
      ...[...node.childNodes].filter((child) => child.nodeType === 3).map((child) => child.data)])
    .map((text) => text.trim()).filter(Boolean);
}"""


def raw_keys(page: Page) -> list[str]:
    """Texts that are a key of the dictionaries, or look like one nobody translated."""
    groups = "|".join({key.partition(".")[0] for key in words("en")})
    shape = re.compile(rf"(?:{groups})(?:\.[a-z_]+)+")
    return [spoken for spoken in page.evaluate(SPOKEN) if shape.fullmatch(spoken)]


def english_left(page: Page) -> list[str]:
    """Texts of the Chinese page that stand so in the English dictionary and otherwise in the Chinese one."""
    english, chinese = words("en"), words("zh")
    said_in_chinese = set(chinese.values())
    only_english = {english[key] for key in english if english[key] != chinese[key]} - said_in_chinese
    return [spoken for spoken in page.evaluate(SPOKEN) if spoken in only_english and " " in spoken]
