"""Where base models come from, and what a person reads when there is none."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bitsmith_client.lab.servers import free_port
from bitsmith_core.wire import FailureClass
from bitsmith_worker.base_models import available, resolve
from bitsmith_worker.failure import AttemptFailed

RESOLVE = """
import sys
from bitsmith_worker.base_models import resolve
from bitsmith_worker.failure import AttemptFailed
try:
    print('{"path": "%s"}' % resolve(sys.argv[1], None))
except AttemptFailed as error:
    print(error.line.model_dump_json())
"""


def resolve_with_hub(model: str, endpoint: str, cache: Path) -> dict[str, str]:
    """In a process of its own: the hub's client reads its address when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_ETAG_TIMEOUT": "2"}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, model], env=environment, capture_output=True, check=True, text=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture
def empty_hub() -> Iterator[str]:
    """A hub that has nothing, and says so as the real one does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            code = "RevisionNotFound" if "revision/v9" in self.path else "RepoNotFound"
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_local_models_are_gguf_files_and_folders_with_a_config(tmp_path: Path) -> None:
    for name in ("tiny.gguf", "org/model/config.json", "org/model/deeper/config.json", ".cache/x/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "org" / "empty").mkdir()
    assert available(tmp_path) == ["org/model", "tiny.gguf"]
    assert available(tmp_path / "absent") == available(None) == []
    for name in available(tmp_path):
        assert resolve(f"local:{name}", tmp_path) == tmp_path / name


def test_a_name_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    """Postgres would refuse the worker's whole report, and a worker that does not report counts as gone."""
    (tmp_path / "tiny.gguf").touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.gguf")).touch()
    assert available(tmp_path) == ["tiny.gguf"]


def test_a_local_model_cannot_lead_out_of_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    models = tmp_path / "models"
    models.mkdir()
    (models / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(AttemptFailed, match="leads out of the models folder") as caught:
        resolve("local:link", models)
    assert caught.value.line.failure is FailureClass.CONFIG


def test_a_model_that_the_hub_does_not_have_is_the_job_s_mistake(empty_hub: str, tmp_path: Path) -> None:
    answer = resolve_with_hub("hf:org/absent", empty_hub, tmp_path)
    assert (answer["failure"], answer["code"]) == ("config", "model_not_found")
    assert "The hub has no model org/absent" in answer["message"]

    answer = resolve_with_hub("hf:org/absent@v9", empty_hub, tmp_path)
    assert (answer["failure"], answer["code"]) == ("config", "model_not_found")
    assert "no revision 'v9'" in answer["message"]


def test_a_hub_that_does_not_answer_is_nobody_s_mistake(tmp_path: Path) -> None:
    answer = resolve_with_hub("hf:org/model", f"http://127.0.0.1:{free_port()}", tmp_path)
    assert (answer["failure"], answer["code"]) == ("infra", "hub_unavailable")
