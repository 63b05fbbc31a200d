"""How a spec names things it does not contain."""

import re
from typing import Annotated

from pydantic import AfterValidator

from bitsmith_core.ids import is_file_id

_HUB = re.compile(r"hf:(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_VERSION = re.compile(r"[A-Za-z0-9_.-]{1,200}(@[A-Za-z0-9_.-]{1,200})?")
_LOCAL = re.compile(r"local:(?P<path>[\w][\w.-]*(/[\w][\w.-]*)*)")


def _check_model(text: str) -> str:
    if _HUB.fullmatch(text) or _LOCAL.fullmatch(text):
        return text
    raise ValueError(
        f"{text!r} names no base model; write hf:org/name, hf:org/name@revision, "
        "or local:path for a folder or .gguf file below the workers' model folder"
    )


def _check_file(text: str) -> str:
    if is_file_id(text):
        return text
    raise ValueError(f"{text!r} is not a file id; upload the file to /v1/files and use the id it answers with")


def _check_version(text: str) -> str:
    if _VERSION.fullmatch(text):
        return text
    raise ValueError(f"{text!r} names no version; write name@3, name@alias, or name for its newest")


VersionRef = Annotated[str, AfterValidator(_check_version)]
ModelRef = Annotated[str, AfterValidator(_check_model)]
FileRef = Annotated[str, AfterValidator(_check_file)]


def hub_reference(model: str) -> tuple[str, str | None] | None:
    """(repository, revision) of an hf: reference, None for any other kind."""
    match = _HUB.fullmatch(model)
    return (match["repo"], match["revision"]) if match else None


def local_path(model: str) -> str | None:
    """Path below the workers' model folder of a local: reference, None for any other kind."""
    match = _LOCAL.fullmatch(model)
    return match["path"] if match else None


def base_slug(model: str) -> str:
    """Short name of a base model, usable in model names: hf:org/Some-Model@v1 -> some-model."""
    path = model.partition(":")[2].partition("@")[0]
    stem = path.rsplit("/", 1)[-1].removesuffix(".gguf")
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
