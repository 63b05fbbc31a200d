"""The application, put together from what it is given."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from bitsmith_core.db import Database
from bitsmith_core.storage import ObjectStore
from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool

from bitsmith_api import auth, errors, routes
from bitsmith_api.app.middleware import RequestLog
from bitsmith_api.app.openapi import describe
from bitsmith_api.deps import Services
from bitsmith_api.metrics import Metrics
from bitsmith_api.settings import ApiSettings

_ABOUT = """Fine-tune language models in 2-4 bits and keep the results in a registry.

Upload a training and a validation file, submit a job, follow its events, download the version it publishes.
The dialect is OpenAI's fine-tuning API: its clients work with this base URL and key.
"""


def create_app(*, settings: ApiSettings, database: Database, store: ObjectStore) -> FastAPI:
    """The API over these servers. Its lifespan ends with `database` closed."""
    services = Services(settings=settings, database=database, store=store, metrics=Metrics(database))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        services.streams.is_closing = True
        await run_in_threadpool(database.close)

    app = FastAPI(
        title="Bitsmith",
        version=version("bitsmith"),
        description=_ABOUT,
        lifespan=lifespan,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,  # one JobSpec in the description, the one that clients write
    )
    app.state.services = services
    errors.install(app)
    for router in routes.public:
        app.include_router(router)
    for router in routes.behind_key:
        app.include_router(router, dependencies=[Depends(auth.guard(settings.key))])
    app.add_middleware(RequestLog, metrics=services.metrics)
    describe(app)
    return app
