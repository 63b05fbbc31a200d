"""The process: settings from the environment, logging, uvicorn."""

import socket

import uvicorn
from bitsmith_core import telemetry
from bitsmith_core.db import Database
from bitsmith_core.log import configure_logging, get_logger
from bitsmith_core.settings import DatabaseSettings, StorageSettings
from bitsmith_core.storage import S3Store

from bitsmith_api.app.factory import create_app
from bitsmith_api.deps import Streams
from bitsmith_api.settings import ApiSettings

SHUTDOWN_WITHIN_S = 20  # uploads under way may finish; below Kubernetes' 30 s


class _Server(uvicorn.Server):
    """uvicorn waits for open connections before it ends, and a stream would stay open as long as its job runs."""

    def __init__(self, config: uvicorn.Config, streams: Streams) -> None:
        super().__init__(config)
        self._streams = streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._streams.is_closing = True
        await super().shutdown(sockets)


def main() -> None:
    configure_logging()
    telemetry.configure("bitsmith-api")
    settings = ApiSettings.from_environment()
    app = create_app(
        settings=settings,
        database=Database(DatabaseSettings.from_environment()),
        store=S3Store(StorageSettings.from_environment()),
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # one JSON object a line, from bitsmith_core.log
        access_log=False,  # app.middleware writes it, with the request id
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_WITHIN_S,
    )
    get_logger().info("api.started", host=settings.host, port=settings.port)
    _Server(config, app.state.services.streams).run()
