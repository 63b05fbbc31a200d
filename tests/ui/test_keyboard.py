"""Everything can be reached without a mouse, and what has the focus can be seen."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.ui.conftest import Visit


def focus(page: Page) -> dict[str, str]:
    """What has the focus: what it is, and whether an outline shows it."""
    found: dict[str, str] = page.evaluate(
        """() => {
          const node = document.activeElement;
          const style = getComputedStyle(node);
          const isSeen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
          return {
            place: node.closest(".facets") ? "facets" : "elsewhere",
            kind: node.tagName.toLowerCase(),
            text: node.textContent.trim(),
            seen: isSeen ? "yes" : "no",
          };
        }"""
    )
    return found


def test_tab_comes_to_the_first_facet_without_the_menu_in_between(visit: Visit) -> None:
    page = visit("/ui/models")
    page.keyboard.press("Tab")
    assert (focus(page)["text"], focus(page)["seen"]) == ("New job", "yes")
    page.keyboard.press("Tab")
    assert (focus(page)["place"], focus(page)["kind"], focus(page)["seen"]) == ("facets", "input", "yes")
    page.keyboard.press("Space")
    expect(page.locator(".chip")).to_have_count(1)
    expect(page.locator(".facets input:focus")).to_be_checked()


def test_who_begins_at_the_top_may_skip_the_menu(visit: Visit) -> None:
    page = visit("/ui/models")
    skip = page.get_by_role("link", name="Skip to content")
    skip.focus()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


@pytest.mark.parametrize(
    ("key", "heading"),
    [("j", "Jobs"), ("f", "Files"), ("w", "Workers"), ("k", "API keys"), ("c", "Compare versions"), ("m", "Models")],
)
def test_g_and_a_letter_go_to_a_place(visit: Visit, key: str, heading: str) -> None:
    page = visit("/ui/models" if key != "m" else "/ui/jobs")
    page.keyboard.press("g")
    page.keyboard.press(key)
    expect(page.get_by_role("heading", level=1, name=heading)).to_be_visible()
    expect(page.get_by_role("heading", level=1, name=heading)).to_be_focused()


def test_letters_that_somebody_types_go_nowhere(visit: Visit) -> None:
    page = visit("/ui/models")
    page.keyboard.press("/")
    search = page.get_by_role("searchbox")
    expect(search).to_be_focused()
    page.keyboard.type("gj")
    expect(search).to_have_value("gj")
    expect(page).to_have_url(re.compile(r"/ui/models\?q=gj"))


def test_escape_closes_dialogs_and_gives_the_focus_back(visit: Visit) -> None:
    page = visit("/ui/models/qwen3-8b-support")
    opener = page.get_by_role("button", name="Where @prod pointed")
    opener.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(opener).to_be_focused()

    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_arrows_go_through_tabs(visit: Visit) -> None:
    page = visit("/ui/models/qwen3-8b-support/versions/3")
    page.get_by_role("tab", name="Overview").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Bits")).to_be_focused()
    expect(page).to_have_url(re.compile("tab=bits"))


def test_the_menu_of_a_phone_opens_and_escape_closes_it(visit: Visit) -> None:
    page = visit("/ui/jobs", size=(390, 844))
    menu = page.get_by_role("button", name="Menu")
    expect(page.get_by_role("link", name="Workers")).to_be_hidden()
    menu.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Workers")).to_be_visible()
    expect(menu).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Workers")).to_be_hidden()
