"""`python -m bitsmith_serving`: settings from the environment, logging, uvicorn."""

import uvicorn
from bitsmith_core.log import configure_logging, get_logger
from bitsmith_core.settings import StorageSettings
from bitsmith_core.storage import S3Store

from bitsmith_serving.app import create_app
from bitsmith_serving.settings import ServingSettings

SHUTDOWN_WITHIN_S = 10  # answers under way may finish


def main() -> None:
    configure_logging()
    settings = ServingSettings.from_environment()
    store = S3Store(StorageSettings.from_environment())
    get_logger().info("serving.started", host=settings.host, port=settings.port, memory_bytes=settings.memory_bytes)
    uvicorn.run(
        create_app(settings, store),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_WITHIN_S,
    )


if __name__ == "__main__":
    main()
