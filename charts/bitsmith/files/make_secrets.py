"""python make_secrets.py NAMESPACE PLAN: create the Secrets of the plan that are not there yet, with random values.

PLAN is {"secret name": {"key": "text with {0} and {1}"}} as JSON; {0} and {1} are drawn anew for each Secret. A Secret
that exists is left alone, whatever is in it: creating is all that this account may do. Standard library only.
"""

import json
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
CREATED, EXISTS = 201, 409


def manifest(name: str, texts: dict[str, str]) -> dict[str, object]:
    # Hexadecimal: it stands in URLs without being quoted.
    drawn = [secrets.token_hex(24) for _ in range(2)]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "bitsmith"}},
        "stringData": {key: text.format(*drawn) for key, text in texts.items()},
    }


def create(namespace: str, body: dict[str, object]) -> int:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    request = urllib.request.Request(
        f"https://{host}:{port}/api/v1/namespaces/{namespace}/secrets",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(
            request, context=ssl.create_default_context(cafile=ACCOUNT / "ca.crt"), timeout=30
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        if error.code == EXISTS:
            return EXISTS
        raise SystemExit(f"the Kubernetes API answered {error.code}: {error.read().decode(errors='replace')}") from None


def main() -> None:
    namespace, plan = sys.argv[1], json.loads(sys.argv[2])
    for name, texts in plan.items():
        status = create(namespace, manifest(name, texts))
        sys.stdout.write(f"{name}: {'created' if status == CREATED else 'was there'}\n")


if __name__ == "__main__":
    main()
