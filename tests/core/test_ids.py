"""Ids sort by time, are valid Kubernetes names and never repeat."""

import re

from bitsmith_core.ids import is_file_id, is_job_id, new_file_id, new_job_id


def test_later_ids_sort_later() -> None:
    made = [new_job_id() for _ in range(3000)]
    prefixes = [name[:15] for name in made]  # prefix and the time's first 45 bits; what follows is random
    assert prefixes == sorted(prefixes)
    assert len(set(made)) == len(made)


def test_ids_are_names_kubernetes_takes() -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", new_job_id())


def test_kinds_are_told_apart() -> None:
    assert is_file_id(new_file_id())
    assert not is_file_id(new_job_id())
    assert is_job_id(new_job_id())
    assert not is_job_id("ftjob-../../etc")
