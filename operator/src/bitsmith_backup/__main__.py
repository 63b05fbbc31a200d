"""python -m bitsmith_backup backup|restore|verify FOLDER: BITSMITH_DATABASE_URL and BITSMITH_STORAGE_* say of what."""

import argparse
import sys
from pathlib import Path

from bitsmith_core.errors import StoreUnavailable
from bitsmith_core.log import configure_logging
from bitsmith_core.settings import DatabaseSettings, StorageSettings
from bitsmith_core.storage import S3Store

from bitsmith_backup import snapshot
from bitsmith_backup.errors import BackupFailed


def main() -> None:
    parser = argparse.ArgumentParser(prog="bitsmith backup", description=__doc__)
    parser.add_argument("deed", choices=["backup", "restore", "verify"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--snapshot", help="its name; the newest if unset")
    asked = parser.parse_args()
    configure_logging()
    try:
        if asked.deed == "verify":
            told = snapshot.verify(asked.folder, asked.snapshot)
        else:
            url = DatabaseSettings.from_environment().url.get_secret_value()
            store = S3Store(StorageSettings.from_environment())
            if asked.deed == "backup":
                told = snapshot.take(url, store, asked.folder)
            else:
                told = snapshot.put_back(url, store, asked.folder, asked.snapshot)
    except (BackupFailed, StoreUnavailable, OSError) as error:
        sys.exit(f"{asked.deed} failed: {error}")
    print(told)  # noqa: T201  # what people asked for


if __name__ == "__main__":
    main()
