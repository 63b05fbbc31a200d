"""`python -m bitsmith_api.app.document > docs/openapi.json`: the description as it is committed. Asks no server."""

import json
import sys

from bitsmith_core.db import Database
from bitsmith_core.settings import DatabaseSettings, StorageSettings
from bitsmith_core.storage import S3Store
from pydantic import SecretStr

from bitsmith_api.app.factory import create_app
from bitsmith_api.settings import ApiSettings


def document() -> str:
    app = create_app(
        settings=ApiSettings(key=SecretStr("no key at all")),
        database=Database(DatabaseSettings(url=SecretStr("postgresql+psycopg://nobody@localhost/none"))),
        store=S3Store(
            StorageSettings(endpoint="localhost", access_key="nobody", secret_key=SecretStr("none"), secure=False)
        ),
    )
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
