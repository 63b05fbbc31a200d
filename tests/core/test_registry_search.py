"""Pages put together are the whole list in a plain sort's order, whatever is filtered and sorted by.

The oracle is Python: the same models as dictionaries, filtered by comprehensions and sorted by `sorted`. They are drawn
with many equal and many missing values, where a keyset goes wrong.
"""

import itertools
from typing import Any

import pytest
from bitsmith_core import jobs, registry
from bitsmith_core.bundle import Environment, FileEntry, Manifest, QuantizationFacts, Score
from bitsmith_core.db import Tx
from bitsmith_core.errors import Conflict
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.registry import changes, facets, search
from bitsmith_core.registry.filters import Range, Sort, VersionFilter
from bitsmith_core.spec import JobSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

TASKS = ("piqa", "wic")
SORTS = ["name", "size_bytes", "bpw", "created_at", "score:piqa", "score:wic"]


def draw_model(index: int) -> st.SearchStrategy[dict[str, Any]]:
    score = st.sampled_from([None, 0.5, 0.5, 0.75])
    return st.fixed_dictionaries(
        {
            "name": st.just(f"m{(index * 7) % 10}{index}"),  # not in the order in which they are made
            "base_model": st.sampled_from(["hf:org/a", "hf:org/b"]),
            "bpw": st.sampled_from([None, 2.5, 2.5, 4.0]),
            "size_bytes": st.sampled_from([10, 20, 20]),
            "tags": st.sampled_from([[], ["x"], ["x", "y"]]),
            "created_at": st.sampled_from([1_800_000_000, 1_800_000_000, 1_800_000_100]),
            "piqa": score,
            "wic": score,
        }
    )


MODELS = st.integers(min_value=0, max_value=7).flatmap(lambda n: st.tuples(*(draw_model(index) for index in range(n))))
BOUND = st.sampled_from([None, 0.5, 0.6, 0.75])
FILTERS = st.builds(
    VersionFilter,
    text=st.sampled_from(["", "m", "ORG/A", "x"]),
    base_models=st.sampled_from([(), ("hf:org/a",), ("hf:org/a", "hf:org/b")]),
    tags=st.sampled_from([(), ("x",), ("y", "x")]),
    bpw=st.builds(Range, at_least=st.sampled_from([None, 2.5, 3.0]), at_most=st.sampled_from([None, 2.5, 4.0])),
    size_bytes=st.builds(Range, at_most=st.sampled_from([None, 10, 15])),
    scores=st.dictionaries(st.sampled_from(TASKS), st.builds(Range, at_least=BOUND, at_most=BOUND), max_size=2),
)


def manifest(drawn: dict[str, Any]) -> Manifest:
    quantization = QuantizationFacts(
        scheme="uniform", bpw_codes=drawn["bpw"] or 0, bpw_effective=drawn["bpw"] or 0, quantized_weights=1,
        float_weights=1, quantized_bytes=1, model_bytes=drawn["size_bytes"], float_bytes=4, layers=[],
    )  # fmt: skip
    scores = [
        Score(
            subject="qsft", task=task, metric="acc", value=drawn[task], stderr=None, n=1, n_unit="questions",
            higher_is_better=True, comparable_key="k",
        )
        for task in TASKS if drawn[task] is not None
    ]  # fmt: skip
    return Manifest(
        base_model=drawn["base_model"],
        spec_sha256="0" * 64,
        files=[FileEntry(path="model.safetensors", bytes=drawn["size_bytes"], sha256="a" * 64)],
        quantization=quantization if drawn["bpw"] is not None else None,
        training=None,
        stages=[],
        scores=scores or [],
        environment=Environment(engine="0", torch="2", transformers="5", device="cpu", seed=0),
    )


def publish(tx: Tx, spec: JobSpec, drawn: dict[str, Any]) -> None:
    job = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    made = manifest(drawn)
    registry.blobs.hold(tx, made.files)
    version = registry.publish(tx, project=DEFAULT_PROJECT, name=drawn["name"], job_id=job.id, manifest=made)
    changes.change(tx, drawn["name"], {"tags": drawn["tags"]}, revision=None, project=DEFAULT_PROJECT)
    moment = {"at": drawn["created_at"], "id": version.id}
    tx.execute(text("UPDATE versions SET created_at = to_timestamp(:at) WHERE id = :id"), moment)
    tx.flush()


def is_within(value: float | None, range_: Range) -> bool:
    if range_.is_open:
        return True
    if value is None:
        return False
    least, most = range_.at_least, range_.at_most
    return (least is None or value >= least) and (most is None or value <= most)


def meets(drawn: dict[str, Any], wanted: VersionFilter) -> bool:
    words = [drawn["name"], drawn["base_model"], *drawn["tags"]]
    return (
        any(wanted.text.lower() in word.lower() for word in words)
        and drawn["base_model"] in (wanted.base_models or [drawn["base_model"]])
        and set(wanted.tags) <= set(drawn["tags"])
        and is_within(drawn["bpw"], wanted.bpw)
        and is_within(drawn["size_bytes"], wanted.size_bytes)
        and all(is_within(drawn[task], range_) for task, range_ in wanted.scores.items())
    )


def in_order(models: list[dict[str, Any]], sort: Sort) -> list[str]:
    key = sort.task or sort.key.value
    by_name = sorted(models, key=lambda each: each["name"], reverse=key == "name" and sort.is_descending)
    if key == "name":
        return [each["name"] for each in by_name]
    known = [each for each in by_name if each[key] is not None]
    known.sort(key=lambda each: -each[key] if sort.is_descending else each[key])  # stable: equals stay by name
    return [each["name"] for each in [*known, *(each for each in by_name if each[key] is None)]]


def read(tx: Tx, wanted: VersionFilter, sort: Sort, limit: int) -> list[str]:
    """Page by page, forwards."""
    found: list[str] = []
    while True:
        after = found[-1] if found else None
        page = search.page(tx, project=DEFAULT_PROJECT, limit=limit, wanted=wanted, sort=sort, after=after)
        found += [each.model.name for each in page.models]
        if not page.has_more:
            return found


def read_back(tx: Tx, wanted: VersionFilter, sort: Sort, limit: int, *, last: str) -> list[str]:
    """What comes before the last one, page by page, backwards."""
    found = [last]
    while True:
        page = search.page(tx, project=DEFAULT_PROJECT, limit=limit, wanted=wanted, sort=sort, before=found[0])
        found = [each.model.name for each in page.models] + found
        if not page.has_more:
            return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    models=MODELS,
    wanted=FILTERS,
    name=st.sampled_from(SORTS),
    is_descending=st.booleans(),
    limit=st.integers(min_value=1, max_value=3),
)
def test_pages_are_a_plain_sort_of_what_the_filters_leave(
    tx: Tx,
    spec: JobSpec,
    models: tuple[dict[str, Any], ...],
    wanted: VersionFilter,
    name: str,
    is_descending: bool,
    limit: int,
) -> None:
    sort = Sort.parsed(f"-{name}" if is_descending else name)
    savepoint = tx.begin_nested()
    try:
        for drawn in models:
            publish(tx, spec, drawn)
        left = [drawn for drawn in models if meets(drawn, wanted)]
        expected = in_order(left, sort)
        assert read(tx, wanted, sort, limit) == expected
        if expected:
            assert read_back(tx, wanted, sort, limit, last=expected[-1]) == expected
        counted = facets.facets(tx, project=DEFAULT_PROJECT, wanted=wanted)
        assert counted.total == len(expected)
        own_ignored = VersionFilter(
            text=wanted.text, tags=wanted.tags, bpw=wanted.bpw, size_bytes=wanted.size_bytes, scores=wanted.scores
        )
        bases = sorted(drawn["base_model"] for drawn in models if meets(drawn, own_ignored))
        told = {each.value: each.count for each in counted.values["base_model"]}
        assert told == {base: len(list(group)) for base, group in itertools.groupby(bases)}
    finally:
        savepoint.rollback()
        tx.expunge_all()


@pytest.mark.parametrize("name", ["best", "facets"])
def test_words_of_the_addresses_are_no_models(tx: Tx, spec: JobSpec, name: str) -> None:
    with pytest.raises(Conflict, match=f"cannot be called '{name}'"):
        publish(tx, spec, {"name": name, "base_model": "hf:a/b", "bpw": None, "size_bytes": 1, "piqa": 1, "wic": 1})


@pytest.mark.parametrize("base", ["hf:org/best", "local:facets"])
def test_no_job_can_ask_for_such_a_name(spec: JobSpec, base: str) -> None:
    assert spec.model_copy(update={"model": base}).model_name not in {"best", "facets"}
