"""What was used, by whom, when."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from bitsmith_core.clock import utc_now
from bitsmith_core.delivery import usage
from bitsmith_core.delivery.usage import Grouping
from fastapi import APIRouter, Query

from bitsmith_api.deps import FromCaller, Transaction, require
from bitsmith_api.errors import InvalidRequest, documented
from bitsmith_api.schemas.usage import UsageBucket, UsageReport

router = APIRouter(prefix="/v1/usage", tags=["Usage"])

MAX_BUCKETS = 1000
WIDTHS = {"1h": timedelta(hours=1), "1d": timedelta(days=1), "7d": timedelta(days=7)}
DEFAULT_SPAN = timedelta(days=30)

_LAST_SECOND = 2**33


@router.get("", summary="Usage", dependencies=[require("usage:read")], responses=documented(401, 422, 500, 503))
def get_usage(
    caller: FromCaller,
    tx: Transaction,
    start: Annotated[
        int | None, Query(ge=0, lt=_LAST_SECOND, description="unix seconds; midnight UTC, 30 days before end")
    ] = None,
    end: Annotated[int | None, Query(ge=0, lt=_LAST_SECOND, description="unix seconds, excluded; now")] = None,
    bucket: Annotated[Literal["1h", "1d", "7d"], Query(description="the width of a bucket")] = "1d",
    group_by: Annotated[list[Grouping] | None, Query(description="repeat it to group by several")] = None,
) -> UsageReport:
    """GPU time in buckets of time, oldest first, in the caller's project. The first bucket begins at `start`.

    With the bootstrap key and `group_by=project`: in all projects.
    """
    until = utc_now() if end is None else datetime.fromtimestamp(end, UTC)
    since = _midnight(until - DEFAULT_SPAN) if start is None else datetime.fromtimestamp(start, UTC)
    width, grouping = WIDTHS[bucket], group_by or []
    if since >= until:
        raise _bad("start", f"start, {since.isoformat()}, must be before end, {until.isoformat()}")
    if until - since > MAX_BUCKETS * width:
        raise _bad("bucket", f"that would be more than {MAX_BUCKETS} buckets; ask for wider ones or a shorter time")

    sees_all = caller.is_installation and Grouping.PROJECT in grouping
    found = usage.used(
        tx,
        start=since,
        end=until,
        width=width,
        group_by=grouping,
        project=None if sees_all else caller.project,
    )
    return UsageReport(data=[UsageBucket.of(each) for each in found])


def _midnight(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


def _bad(name: str, detail: str) -> InvalidRequest:
    return InvalidRequest.at(f"query {name}", "bad_range", detail)
