"""Where a base model lies on this machine: below the models folder, or in the Hugging Face cache after a download."""

import os
from pathlib import Path

from bitsmith_core.spec import hub_reference, local_path
from bitsmith_core.wire import FailureClass
from httpx2 import HTTPError  # what huggingface_hub lets through of its own transport
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bitsmith_worker.failure import AttemptFailed

# Weights as safetensors, configuration, tokenizer. Never pickles, never code.
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_UNWANTED = ["*/*", "consolidated*"]  # other formats in sub-folders; a second copy of the weights


MAX_DEPTH = 4  # org/name/revision is three; deeper is a cache, not a models folder


def available(models: Path | None) -> list[str]:
    """Paths that a local: reference may name: .gguf files, and folders that hold a config.json."""
    if models is None or not models.is_dir():
        return []
    found = []
    for current, folders, files in os.walk(models, followlinks=True):
        here = Path(current).relative_to(models)
        found += [(here / name).as_posix() for name in files if name.endswith(".gguf")]
        is_model = "config.json" in files and here.parts
        if is_model:
            found.append(here.as_posix())
        is_deep_enough = bool(is_model) or len(here.parts) >= MAX_DEPTH
        folders[:] = [] if is_deep_enough else [name for name in folders if not name.startswith(".")]
    return sorted(path for path in found if _is_text(path))


def resolve(model: str, models: Path | None) -> Path:
    """The folder or .gguf file of a base model, downloaded first if it is on the hub.

    Raises:
        AttemptFailed: it does not exist, or the hub cannot be reached.
    """
    path = local_path(model)
    if path is not None:
        return _local(path, models)
    reference = hub_reference(model)
    assert reference is not None, model
    return _from_hub(*reference)


def _local(path: str, models: Path | None) -> Path:
    if models is None:
        raise _not_found(
            f"This worker has no models folder, so local:{path} names nothing; set BITSMITH_WORKER_MODELS."
        )
    found = (models / path).resolve()
    if not found.is_relative_to(models.resolve()):
        raise _not_found(f"local:{path} leads out of the models folder.")
    if not found.exists():
        raise _not_found(f"The models folder of this worker holds no {path}; put the model there or name another.")
    return found


def _from_hub(repository: str, revision: str | None) -> Path:
    named = f"{repository}@{revision}" if revision else repository
    try:
        found = Path(
            snapshot_download(repository, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
        )
    except GatedRepoError as error:
        raise _not_found(
            f"hf:{named} is gated; accept its terms on the hub and give the workers a token in HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise _not_found(
            f"hf:{repository} has no revision {revision!r}; see its branches and tags on the hub."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _not_found(
            f"The hub has no model {repository}, or it is private; "
            "check the name, or give the workers a token in HF_TOKEN."
        ) from error
    except (LocalEntryNotFoundError, HTTPError, ConnectionError) as error:
        problem = f"The hub did not answer for {named}, and this worker has no copy: {error}"
        raise AttemptFailed(FailureClass.INFRA, "hub_unavailable", problem) from error
    if not (found / "config.json").exists() or not any(found.glob("*.safetensors")):
        raise _not_found(f"hf:{named} holds no config.json with *.safetensors; choose a repository that has both.")
    return found


def _is_text(path: str) -> bool:
    """Names on a disk are bytes; those that are not UTF-8 fit into no request and no table."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _not_found(message: str) -> AttemptFailed:
    return AttemptFailed(FailureClass.CONFIG, "model_not_found", message)
