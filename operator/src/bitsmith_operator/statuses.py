"""Writes statuses: what changed at once, what only moves (progress) every now and then."""

from datetime import datetime, timedelta
from typing import Any

from bitsmith_operator.cluster import Cluster


class Statuses:
    def __init__(self, cluster: Cluster, *, every: timedelta) -> None:
        self._cluster, self._every = cluster, every
        self._written: dict[str, tuple[dict[str, Any], datetime]] = {}  # uid -> status, when

    def write(self, plural: str, body: dict[str, Any], status: dict[str, Any], *, now: datetime) -> None:
        """
        Args:
            body: the object as it was found.

        Raises:
            ClusterUnavailable
        """
        metadata, before = body["metadata"], body.get("status") or {}
        if before == status:
            return
        last, at = self._written.get(metadata["uid"], ({}, None))
        moved = {name for name in {*status, *last} if status.get(name) != last.get(name)}
        if at is not None and moved <= {"progress"} and now - at < self._every:
            return
        gone = {name: None for name in before if name not in status}
        self._cluster.write_status(plural, metadata["namespace"], metadata["name"], status | gone)
        self._written[metadata["uid"]] = (status, now)

    def forget(self, uid: str) -> None:
        self._written.pop(uid, None)
