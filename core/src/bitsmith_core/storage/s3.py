"""ObjectStore on any S3, through the minio SDK: the only importer of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, NoReturn
from urllib.parse import quote

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError

from bitsmith_core.errors import NotFound, StoreUnavailable
from bitsmith_core.settings import StorageSettings
from bitsmith_core.storage.base import ObjectInfo

# Some servers buffer a whole GET; ranges bound their memory and cost nothing (measured with SeaweedFS: 16 MiB ranges
# keep it below 300 MB where one stream of 1.5 GB took 1.3 GB).
_RANGE_BYTES = 16 * 2**20

_CONNECTIONS_KEPT = 16  # for threads that work at once; with urllib3's one, each further request connects anew

_GONE = {"NoSuchKey", "NoSuchBucket", "NoSuchObject"}


class S3Store:
    def __init__(self, settings: StorageSettings) -> None:
        self._bucket = settings.bucket
        secret = settings.secret_key.get_secret_value()
        pool = urllib3.PoolManager(
            maxsize=_CONNECTIONS_KEPT,
            timeout=urllib3.Timeout(connect=10, read=120),
            retries=urllib3.Retry(total=4, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
        )
        self._client = Minio(
            endpoint=settings.endpoint,
            access_key=settings.access_key,
            secret_key=secret,
            secure=settings.secure,
            region=settings.region,
            http_client=pool,
        )
        # A signature covers the host, so links for people come from a client that knows the public name.
        self._signer = Minio(
            endpoint=settings.public_endpoint or settings.endpoint,
            access_key=settings.access_key,
            secret_key=secret,
            secure=settings.secure if settings.public_secure is None else settings.public_secure,
            region=settings.region,
        )

    def ensure_bucket(self) -> None:
        with _translated(self._bucket):
            if not self._client.bucket_exists(bucket_name=self._bucket):
                self._client.make_bucket(bucket_name=self._bucket)

    def put_file(self, key: str, path: Path) -> None:
        with _translated(key):
            self._client.fput_object(bucket_name=self._bucket, object_name=key, file_path=str(path))

    def get_file(self, key: str, path: Path) -> None:
        info = self.stat(key)
        if info is None:
            raise NotFound(f"the object store has no {key}")
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            for offset in range(0, info.bytes, _RANGE_BYTES):
                file.write(self.read(key, offset=offset, length=min(_RANGE_BYTES, info.bytes - offset)))
        part.replace(path)

    def put_stream(self, key: str, stream: BinaryIO, *, size_bytes: int) -> None:
        with _translated(key):
            self._client.put_object(
                bucket_name=self._bucket,
                object_name=key,
                data=stream,
                length=size_bytes,
                part_size=_RANGE_BYTES,
                num_parallel_uploads=1,  # the SDK's threads would outlive a stream that raises
            )

    def read(self, key: str, *, offset: int, length: int) -> bytes:
        with _translated(key):
            response = self._client.get_object(bucket_name=self._bucket, object_name=key, offset=offset, length=length)
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with _translated(key):
                found = self._client.stat_object(bucket_name=self._bucket, object_name=key)
        except NotFound:
            return None
        return ObjectInfo(key=key, bytes=found.size or 0, modified_at=found.last_modified)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with _translated(prefix):
            for found in self._client.list_objects(bucket_name=self._bucket, prefix=prefix, recursive=True):
                yield ObjectInfo(key=found.object_name or "", bytes=found.size or 0, modified_at=found.last_modified)

    def delete(self, key: str) -> None:
        with _translated(key):
            self._client.remove_object(bucket_name=self._bucket, object_name=key)

    def presigned_get(self, key: str, *, expires: timedelta, filename: str) -> str:
        return self._signer.presigned_get_object(
            bucket_name=self._bucket,
            object_name=key,
            expires=expires,
            extra_query_params={"response-content-disposition": f"attachment; filename*=UTF-8''{quote(filename)}"},
        )

    def presigned_put(self, key: str, *, expires: timedelta) -> str:
        return self._signer.presigned_put_object(bucket_name=self._bucket, object_name=key, expires=expires)


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        _raise_for(error, key)
    except (ServerError, InvalidResponseError, urllib3.exceptions.HTTPError) as error:
        raise StoreUnavailable(f"the object store did not answer for {key}: {error}") from error


def _raise_for(error: S3Error, key: str) -> NoReturn:
    if error.code in _GONE:
        raise NotFound(f"the object store has no {key}") from error
    raise StoreUnavailable(f"the object store refused {key}: {error.code}: {error.message}") from error
