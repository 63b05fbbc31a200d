"""Whether the process lives, whether it can work, and what Prometheus wants to know. No key needed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Overdue

from bitsmith_core.errors import Transient
from bitsmith_core.log import get_logger
from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import JSONResponse, Response

from bitsmith_api.deps import SharedServices
from bitsmith_api.errors import RETRY_AFTER_S, answer, documented
from bitsmith_api.metrics import CONTENT_TYPE
from bitsmith_api.schemas import Live, Readiness

router = APIRouter(tags=["Health"])

CHECK_WITHIN_S = 3.0


@router.get("/livez", summary="Is the process alive?", responses=documented(500))
async def livez() -> Live:
    """Asks nobody else: a restart of this process would not cure another server."""
    return Live()


@router.get(
    "/readyz",
    summary="Can the service work?",
    response_model=Readiness,
    responses=documented(500, 503),
)
def readyz(request: Request, services: SharedServices) -> Readiness | JSONResponse:
    """Postgres and the object store answer. 503 names those that do not."""
    down = _down({"postgres": services.database.ping, "object_store": lambda: services.store.stat("readyz")})
    if down:
        return answer(
            request,
            503,
            "not_ready",
            f"not answering: {', '.join(down)}",
            headers={"Retry-After": str(RETRY_AFTER_S)},
            retryable=True,
        )
    return Readiness(checks={"postgres": "ok", "object_store": "ok"})


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented(500)},
)
def metrics(services: SharedServices) -> Response:
    """Jobs by status, oldest wait, live workers and published versions as Postgres has them now; requests of this
    process.
    """
    return Response(services.metrics.render(), media_type=CONTENT_TYPE)


def _down(checks: dict[str, Callable[[], object]]) -> list[str]:
    """Which servers do not answer in time; asked side by side."""
    down = []
    pool = ThreadPoolExecutor(len(checks))
    answers = {name: pool.submit(check) for name, check in checks.items()}
    for name, future in answers.items():
        try:
            future.result(timeout=CHECK_WITHIN_S)
        except (Transient, Overdue) as error:
            get_logger().warning("readiness.server_down", server=name, error=str(error) or "no answer in time")
            down.append(name)
    pool.shutdown(wait=False)
    return down
