"""How much a caller may have: requests a minute, open jobs, stored bytes."""

from dataclasses import dataclass
from typing import Annotated

from bitsmith_core.db import Tx
from bitsmith_core.identity import limits
from bitsmith_core.identity.limits import Limits
from bitsmith_core.ids import ProjectId
from fastapi import Depends
from fastapi.requests import Request

from bitsmith_api.deps.caller import FromCaller
from bitsmith_api.deps.services import SharedServices
from bitsmith_api.errors import TooManyRequests


def within_rate(request: Request, caller: FromCaller, services: SharedServices) -> None:
    """One more request of this key; what it may still ask goes into the answer's headers, a refusal's too."""
    limit = limits.effective(caller.limits, services.settings.limits).requests_per_minute
    standing = services.rates.count(caller.actor, limit=limit)
    request.state.answer_headers = standing.headers
    if not standing.is_within:
        raise TooManyRequests(
            f"this API key may ask {standing.limit} times a minute; try again in {standing.reset_s} s",
            retry_after_s=standing.reset_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Check as late as possible, in the transaction that adds: it keeps the project's other requests waiting."""

    project: ProjectId
    installation: Limits

    def check_job(self, tx: Tx) -> None:
        """Raises QuotaExceeded: the project has as many open jobs as it may."""
        limits.check_open_jobs(tx, project=self.project, installation=self.installation)

    def check_bytes(self, tx: Tx, more_bytes: int) -> None:
        """Raises QuotaExceeded: the project may not store this many bytes more."""
        limits.check_storage(tx, project=self.project, more_bytes=more_bytes, installation=self.installation)


async def _quota(caller: FromCaller, services: SharedServices) -> Quota:
    return Quota(project=caller.project, installation=services.settings.limits)


FromQuota = Annotated[Quota, Depends(_quota)]
