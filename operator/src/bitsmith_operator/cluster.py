"""The Kubernetes API: what this operator reads and writes there, as plain dicts. The only importer of `kubernetes`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import kubernetes.client
import kubernetes.config
import urllib3.exceptions
from kubernetes.client.exceptions import ApiException

from bitsmith_operator.manifests import POOL_LABEL
from bitsmith_operator.objects import GROUP, VERSION

MANAGER = "bitsmith-operator"  # whose fields the server says they are
TIMEOUT_S = 15
PAGE = 500
NOT_FOUND, CONFLICT, GONE, UNPROCESSABLE = 404, 409, 410, 422


class ClusterUnavailable(Exception):
    """The API server does not answer, or not now; the next round asks again."""


class Refused(Exception):
    """The API server will not have it: its own words. Trying again changes nothing until a person does."""


class Cluster:
    def __init__(self, api: kubernetes.client.ApiClient) -> None:
        api.user_agent = MANAGER
        self._core = kubernetes.client.CoreV1Api(api)
        self._batch = kubernetes.client.BatchV1Api(api)
        self._custom = kubernetes.client.CustomObjectsApi(api)
        self._api = api

    @classmethod
    def connect(cls, kubeconfig: str | None) -> "Cluster":
        """By that file, or by the service account of the pod this runs in."""
        if kubeconfig is None:
            configuration = kubernetes.client.Configuration()
            kubernetes.config.load_incluster_config(client_configuration=configuration)
            return cls(kubernetes.client.ApiClient(configuration))
        return cls(kubernetes.config.new_client_from_config(kubeconfig))

    def list_objects(self, plural: str, namespace: str) -> list[dict[str, Any]] | None:
        """All of them at one moment; None where the kind is not installed (any more), which says nothing about them.

        Raises:
            ClusterUnavailable
        """
        found: list[dict[str, Any]] = []
        token = None
        while True:
            try:
                with _translated():
                    page = self._custom.list_namespaced_custom_object(
                        GROUP, VERSION, namespace, plural, limit=PAGE, _continue=token, _request_timeout=TIMEOUT_S
                    )
            except ApiException as error:
                if error.status == NOT_FOUND:
                    return None
                if error.status == GONE:  # the list changed under a slow reader: begin again
                    found, token = [], None
                    continue
                raise _unavailable(error) from error
            found += page["items"]
            token = page["metadata"].get("continue")
            if not token:
                return found

    def write_status(self, plural: str, namespace: str, name: str, status: dict[str, Any]) -> None:
        """Put this in the place of what the status says; nothing, if the object has gone meanwhile.

        Raises:
            ClusterUnavailable
        """
        with _gone_is_fine(), _translated():
            # A merge patch keeps what it does not name: null takes a field away.
            self._custom.patch_namespaced_custom_object_status(
                GROUP, VERSION, namespace, plural, name, {"status": status}, _request_timeout=TIMEOUT_S
            )

    def delete_object(self, plural: str, namespace: str, name: str, *, uid: str) -> None:
        """That very object, not a later one of its name.

        Raises:
            ClusterUnavailable
        """
        body = {"preconditions": {"uid": uid}}
        with _gone_is_fine(), _translated():
            self._custom.delete_namespaced_custom_object(
                GROUP, VERSION, namespace, plural, name, body=body, _request_timeout=TIMEOUT_S
            )

    def version(self) -> tuple[int, int]:
        """Of the server, such as (1, 33).

        Raises:
            ClusterUnavailable
        """
        with _all_unavailable(), _translated():
            found = kubernetes.client.VersionApi(self._api).get_code(_request_timeout=TIMEOUT_S)
        return int(found.major), int(found.minor.rstrip("+"))

    def list_pods(self, namespace: str) -> list[dict[str, Any]]:
        """Those of all pools, with what was created a moment ago: not from the server's cache, which lags.

        Raises:
            ClusterUnavailable
        """
        return self._list(self._core.list_namespaced_pod, namespace)

    def create_pod(self, manifest: dict[str, Any]) -> None:
        """
        Raises:
            ClusterUnavailable
            Refused: by a quota, by policy, or because the pool asks for what no pod can be.
        """
        self._create(self._core.create_namespaced_pod, manifest)

    def delete_pod(self, namespace: str, name: str) -> None:
        """
        Raises:
            ClusterUnavailable
        """
        with _gone_is_fine(), _translated():
            self._core.delete_namespaced_pod(name, namespace, _request_timeout=TIMEOUT_S)

    def list_jobs(self, namespace: str) -> list[dict[str, Any]]:
        """Those of all pools. Raises ClusterUnavailable."""
        return self._list(self._batch.list_namespaced_job, namespace)

    def create_job(self, manifest: dict[str, Any]) -> None:
        """Raises ClusterUnavailable and Refused."""
        self._create(self._batch.create_namespaced_job, manifest)

    def delete_job(self, namespace: str, name: str) -> None:
        """With its pods. Raises ClusterUnavailable."""
        with _gone_is_fine(), _translated():
            self._batch.delete_namespaced_job(
                name, namespace, propagation_policy="Background", _request_timeout=TIMEOUT_S
            )

    def list_services(self, namespace: str) -> list[dict[str, Any]]:
        """Those of all pools. Raises ClusterUnavailable."""
        return self._list(self._core.list_namespaced_service, namespace)

    def create_service(self, manifest: dict[str, Any]) -> None:
        """Raises ClusterUnavailable and Refused."""
        self._create(self._core.create_namespaced_service, manifest)

    def _list(self, of_namespace: Callable[..., Any], namespace: str) -> list[dict[str, Any]]:
        with _all_unavailable(), _translated():
            answer = of_namespace(namespace, label_selector=POOL_LABEL, _request_timeout=TIMEOUT_S)
        items: list[dict[str, Any]] = self._api.sanitize_for_serialization(answer)["items"]
        return items

    def _create(self, in_namespace: Callable[..., Any], manifest: dict[str, Any]) -> None:
        try:
            with _translated():
                in_namespace(manifest["metadata"]["namespace"], manifest, _request_timeout=TIMEOUT_S)
        except ApiException as error:
            if error.status in (400, 403, CONFLICT, UNPROCESSABLE):
                raise Refused(_words(error)) from error
            raise _unavailable(error) from error


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except urllib3.exceptions.HTTPError as error:
        raise ClusterUnavailable(f"the Kubernetes API does not answer: {error}") from error


@contextmanager
def _all_unavailable() -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        raise _unavailable(error) from error


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        if error.status not in (NOT_FOUND, CONFLICT):
            raise _unavailable(error) from error


def _unavailable(error: ApiException) -> ClusterUnavailable:
    return ClusterUnavailable(f"the Kubernetes API answered {error.status}: {_words(error)}")


def _words(error: ApiException) -> str:
    """Of the Status object in the answer, or what there is."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
