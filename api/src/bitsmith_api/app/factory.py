"""The application, put together from what it is given."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from bitsmith_core.db import Database
from bitsmith_core.registry.items import Items
from bitsmith_core.storage import ObjectStore
from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.telemetry import TelemetryConfig

from bitsmith_api import auth, errors, routes
from bitsmith_api.app.middleware import UNLOGGED, RequestLog
from bitsmith_api.app.openapi import describe
from bitsmith_api.deps import Services
from bitsmith_api.deps.idempotency import Replayed, answer_again
from bitsmith_api.deps.limits import within_rate
from bitsmith_api.deps.rates import Rates
from bitsmith_api.deps.services import transaction_limit
from bitsmith_api.metrics import Metrics
from bitsmith_api.serving import Serving
from bitsmith_api.settings import ApiSettings

_ABOUT = """Fine-tune language models in 2-4 bits and keep the results in a registry.

Upload a training and a validation file, submit a job, follow its events, download the version it publishes.
The dialect is OpenAI's fine-tuning API: its clients work with this base URL and key.
"""


# A span for each request, in the client's trace if it has one. bitsmith_core.telemetry says where spans go, and
# bitsmith_api.metrics counts.
_TRACES: TelemetryConfig = {
    "auto_configure": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "exclude": lambda scope: scope["path"] in UNLOGGED,
}


def create_app(*, settings: ApiSettings, database: Database, store: ObjectStore) -> FastAPI:
    """The API over these servers. Its lifespan ends with `database` closed."""
    services = Services(
        settings=settings,
        database=database,
        store=store,
        items=Items(store),
        metrics=Metrics(database),
        rates=Rates(settings.limits_url),
        serving=Serving(settings.serving_url, settings.serving_token),
        transactions=transaction_limit(database),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        services.streams.is_closing = True
        await services.serving.close()
        await run_in_threadpool(database.close)

    app = FastAPI(
        title="Bitsmith",
        version=version("bitsmith"),
        description=_ABOUT,
        lifespan=lifespan,
        redoc_url=None,
        telemetry=_TRACES,
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,  # one JobSpec in the description, the one that clients write
    )
    app.state.services = services
    errors.install(app)
    app.add_exception_handler(Replayed, answer_again)
    for router in routes.public:
        app.include_router(router)
    behind_key = [Depends(auth.guard(settings.key, database)), Depends(within_rate)]
    for router in routes.behind_key:
        app.include_router(router, dependencies=behind_key)
    app.add_middleware(RequestLog, metrics=services.metrics)
    describe(app)
    return app
