"""What people come for, done as they do it: by what they see on the page, from signing in to a model that answers."""

import hashlib
import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect
from toy_model import write_examples

from tests.ui.conftest import PATIENCE_S, Site, Visit, settled, take

A_JOB_MS = 300_000 + 1000 * PATIENCE_S  # a job of the toy model takes seconds, on a busy machine minutes
MEDICAL = "gemma-3-4b-it-medical-zh"


def test_a_key_opens_the_door_and_a_wrong_one_is_told_so(site: Site, visit: Visit) -> None:
    page = visit("/ui/jobs?show=failed", signed_in=False)
    expect(page).to_have_url(re.compile("/ui/login"))
    page.get_by_label("API key").fill("bsk_of-somebody-else")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("This key is not known here")).to_be_visible()
    expect(page.get_by_label("API key")).to_have_attribute("aria-invalid", "true")

    page.get_by_label("API key").fill(site.key)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{site.url}/ui/jobs?show=failed")
    expect(page.get_by_role("heading", level=1, name="Jobs")).to_be_visible()
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert site.key not in kept

    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile("/ui/login"))
    page.goto("/ui/models")
    expect(page).to_have_url(re.compile("/ui/login"))


def test_a_job_for_a_pool_without_workers_is_warned_of_and_says_why_it_waits(
    site: Site, visit: Visit, tmp_path: Path
) -> None:
    write_examples(tmp_path / "large.jsonl", 48)
    page = visit("/ui/jobs/new")
    page.get_by_label("Base model").fill("hf:org/large")
    page.locator("input[type=file]").set_input_files(tmp_path / "large.jsonl")
    page.get_by_text("Name, seed and priority").click()
    expect(page.get_by_label("Pool")).to_have_value("default")
    page.get_by_label("Pool").fill("h100")
    obstacle = "no live worker of the pool h100; there are pools: default"
    expect(page.get_by_text(f"the job would wait: {obstacle}")).to_be_visible()
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Next to start")).to_contain_text("h100")
    expect(page.get_by_text(obstacle, exact=True)).to_be_visible()
    with site.client() as client:
        assert client.jobs.cancel(page.url.rpartition("/")[2]).status == "cancelled"


def test_a_file_becomes_a_model_that_answers_and_can_be_taken_along(visit: Visit, tmp_path: Path) -> None:
    write_examples(tmp_path / "evenness.jsonl", 48)

    page = visit("/ui/jobs/new")
    page.get_by_label("Base model").fill("local:toy")
    page.locator("input[type=file]").set_input_files(tmp_path / "evenness.jsonl")
    expect(page.get_by_text("evenness.jsonl: 48 examples, all lines are fine")).to_be_visible()
    expect(page.get_by_label("Training file").locator("option:checked")).to_have_text("evenness.jsonl · 48 examples")
    page.get_by_label("Longest example").fill("64")
    page.get_by_label("Epochs").fill("8")
    page.get_by_text("Name, seed and priority").click()
    page.get_by_label("Name", exact=False).last.fill("evenness")
    submit = page.get_by_role("button", name="Submit")
    expect(submit).to_be_enabled()
    take(page, "journey-new-job")
    submit.click()

    expect(page.get_by_role("heading", level=1)).to_contain_text("evenness")
    page.evaluate("window.isTheSamePage = true")
    expect(page.locator(".step-now")).to_be_visible(timeout=A_JOB_MS)
    take(page, "journey-job-at-work")
    expect(page.get_by_role("heading", level=1)).to_contain_text("succeeded", ignore_case=True, timeout=A_JOB_MS)
    made = page.get_by_role("note").get_by_role("link", name="toy-evenness@1")
    expect(made).to_be_visible()
    expect(page.get_by_role("list", name="Timeline").get_by_role("listitem").first).to_contain_text("toy-evenness@1")
    assert page.evaluate("window.isTheSamePage") is True, "nobody reloaded"
    take(page, "journey-job-succeeded")

    made.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("toy-evenness@1")
    page.get_by_role("tab", name="Files").click()
    row = page.get_by_role("row").filter(has=page.get_by_text("quantization.json", exact=True))
    promised = row.locator("code[title]").get_attribute("title")
    with page.expect_download() as download:
        row.get_by_role("link", name="Download").click()
    assert hashlib.sha256(Path(download.value.path()).read_bytes()).hexdigest() == promised

    page.get_by_role("tab", name="Chat").click()
    page.get_by_role("textbox").fill("7?")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text(re.compile(r"\d+ tokens · first after"))).to_be_visible(timeout=A_JOB_MS)
    answer = page.locator(".bubble-answer").inner_text()
    assert answer
    assert answer != "Loading the model…"
    take(page, "journey-chat")


def test_filters_narrow_the_models_and_stand_in_the_address(site: Site, visit: Visit) -> None:
    page = visit("/ui/models")
    facets = page.get_by_role("complementary", name="Filters")
    facets.get_by_role("group", name="Base model").get_by_role("checkbox", name="google/gemma-3-4b-it").click()
    tags = facets.get_by_role("group", name="Tags")
    tags.get_by_role("checkbox", name="medical").click()
    expect(page.get_by_role("heading", name="1 model", exact=True)).to_be_visible()
    expect(page.get_by_role("row").filter(has_text=MEDICAL)).to_be_visible()
    assert "tag=medical" in page.url

    other = visit(page.url.removeprefix(site.url))
    expect(other.get_by_role("heading", name="1 model", exact=True)).to_be_visible()

    page.get_by_role("button", name="Remove the filter medical").click()
    expect(page.get_by_role("heading", name="3 models", exact=True)).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="1 model", exact=True)).to_be_visible()


def test_a_score_s_floor_leaves_only_models_that_reach_it(visit: Visit) -> None:
    page = visit("/ui/models?show=piqa")
    page.get_by_role("spinbutton", name=re.compile("PIQA.*at least", re.I)).fill("75")
    page.keyboard.press("Enter")
    expect(page.locator(".chip")).to_have_count(1)
    settled(page)
    scores = [float(text.split()[0]) for text in page.locator("tbody .score").all_inner_texts()]
    assert scores
    assert min(scores) >= 75


def test_two_versions_are_compared_item_by_item(visit: Visit) -> None:
    page = visit("/ui/models/qwen3-8b-plain")
    page.get_by_label("Choose qwen3-8b-plain@1 for a comparison").check()
    page.get_by_label("Choose qwen3-8b-plain@3 for a comparison").check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", level=1, name="Compare versions")).to_be_visible()
    # Two bits everywhere against four: whoever looks must be told that it is worse, with how sure that is.
    verdicts = row_of(page, "piqa").locator(".cell-verdict")
    expect(verdicts).to_have_text("worse")
    expect(row_of(page, "piqa")).to_contain_text("pp")

    page.get_by_role("button", name="Swap sides").click()
    expect(verdicts).to_have_text("better")
    page.get_by_role("tab", name="What was asked for").click()
    expect(page.get_by_role("rowheader", name="method.quantize.quantization.bits")).to_be_visible()


def test_a_version_is_held_against_its_float_base(visit: Visit) -> None:
    page = visit(f"/ui/models/{MEDICAL}/versions/1")
    expect(page.get_by_label("against", exact=True)).to_have_value(f"{MEDICAL}@1:float")
    expect(row_of(page, "piqa").locator(".cell-verdict")).to_have_text(re.compile("better|worse|no difference"))


def row_of(page: Page, task: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=re.compile(f"^{task}", re.I)))


def test_an_alias_is_made_moved_and_remembers_where_it_pointed(visit: Visit) -> None:
    page = visit("/ui/models/llama-3-2-3b-instruct-code-review")
    page.get_by_role("button", name="New", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("stage")
    dialog.get_by_label("Version").select_option("1")
    dialog.get_by_role("button", name="New alias").click()
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("listitem").filter(has_text="@stage")).to_contain_text("@1")

    page.get_by_role("listitem").filter(has_text="@stage").get_by_role("button", name="Move").click()
    dialog.get_by_label("Version").select_option("2")
    dialog.get_by_label("Reason").fill("reads diffs better")
    dialog.get_by_role("button", name="Move", exact=True).click()
    expect(dialog).to_be_hidden()
    moved = page.get_by_role("listitem").filter(has_text="@stage")
    expect(moved).to_contain_text("@2")

    moved.get_by_role("button", name="Where @stage pointed").click()
    history = dialog.get_by_role("listitem")
    expect(history).to_have_count(2)
    expect(history.first).to_contain_text("@1 → @2")
    expect(history.first).to_contain_text("reads diffs better")
    expect(history.last).to_contain_text("Made, at @1")


def test_files_are_uploaded_and_a_broken_line_is_named(visit: Visit, tmp_path: Path) -> None:
    write_examples(tmp_path / "fine.jsonl", 20)
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 1}\n')
    page = visit("/ui/files")
    page.locator("input[type=file]").set_input_files([tmp_path / "fine.jsonl", tmp_path / "broken.jsonl"])
    expect(page.get_by_text("fine.jsonl: 20 examples, all lines are fine")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="fine.jsonl")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text="broken.jsonl")).to_contain_text("line 2")
    expect(page.get_by_role("row").filter(has_text="broken.jsonl")).to_have_count(0)


def test_a_key_is_shown_once_and_may_be_revoked(visit: Visit) -> None:
    page = visit("/ui/keys")
    page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("night shift")
    dialog.get_by_role("button", name="Make", exact=False).click()
    secret = dialog.locator("pre").inner_text()
    assert secret.startswith("bsk_")
    dialog.get_by_role("button", name="I have kept it").click()
    row = page.get_by_role("row").filter(has_text="night shift")
    expect(row).to_contain_text("active", ignore_case=True)
    assert secret not in page.content()
    row.get_by_role("button", name=re.compile("Revoke")).click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked", ignore_case=True)
