"""Models as Hugging Face's hub serves them, so that its clients read from here: `HF_ENDPOINT=http://host/hub`.

    NAME           the folder that transformers loads (bf16/ of the bundle) at the root; the bundle if it has none
    native/NAME    the bundle as it is, packed weights and all

Revisions are main (the newest version), a version's number, an alias, or a commit: the first 40 digits of the version's
manifest_sha256. README.md is the generated model card. Bytes come from the object store, by redirect. Headers, error
codes and fields are those that huggingface_hub 1 and 2 read; writes are not for this door.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from bitsmith_core.db import Tx
from bitsmith_core.errors import NotFound
from bitsmith_core.registry import VersionFile, contents, lookup
from bitsmith_core.registry.contents import NEWEST, Contents
from fastapi import APIRouter, Depends, Query
from fastapi.responses import RedirectResponse, Response
from starlette.convertors import StringConvertor, register_url_convertor

from bitsmith_api.deps import FromCaller, SharedServices, Transaction, require
from bitsmith_api.deps.names import is_name
from bitsmith_api.errors import EntryNotFound, RepoNotFound, RevisionNotFound

# Not in the description: the protocol is another's, and its own clients speak it.
router = APIRouter(prefix="/hub", include_in_schema=False, dependencies=[require("models:read")])

README = "README.md"


class _Repository(StringConvertor):
    """name, or owner/name."""

    regex = "[^/]+(?:/[^/]+)?"


register_url_convertor("repository", _Repository())


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """One revision of one repository."""

    id: str
    contents: Contents
    files: dict[str, VersionFile] = field(repr=False)

    @property
    def commit(self) -> str:
        return self.contents.commit


def _repository(repo: str, caller: FromCaller, tx: Transaction, revision: str = NEWEST) -> Repository:
    owner, _, name = repo.rpartition("/")
    if owner not in {"", "native"} or not is_name(name):
        raise RepoNotFound(f"there is no repository {repo}; models are here as NAME and native/NAME")
    try:
        model = lookup.model(tx, name, project=caller.project)
    except NotFound as error:
        raise RepoNotFound(str(error)) from error
    try:
        found = contents.at(tx, model, revision)
    except NotFound as error:
        raise RevisionNotFound(str(error)) from error
    files = contents.as_repository(found.files, native=owner == "native")
    files.pop(README, None)  # there is one of our own
    return Repository(id=repo, contents=found, files=files)


FromRepository = Annotated[Repository, Depends(_repository)]


@router.get("/api/models/{repo:repository}/revision/{revision:path}")
@router.get("/api/models/{repo:repository}")
def get_hub_model(
    found: FromRepository,
    tx: Transaction,
    blobs: Annotated[bool, Query()] = False,
) -> dict[str, Any]:
    """What a repository is and which files it has; with `blobs` also their sizes and digests."""
    version, card = found.contents.version, contents.metadata(tx, found.contents)
    siblings = [_readme_entry(tx, found), *(_entry(path, file) for path, file in found.files.items())]
    return {
        "_id": version.manifest_sha256[:24],
        "id": found.id,
        "modelId": found.id,
        "sha": found.commit,
        "private": True,
        "gated": False,
        "disabled": False,
        "createdAt": _time(found.contents.model.created_at),
        "lastModified": _time(version.created_at),
        "downloads": 0,
        "likes": 0,
        "library_name": card["library_name"],
        "pipeline_tag": card["pipeline_tag"],
        "tags": card["tags"],
        "cardData": card,
        "siblings": [
            _sibling(entry, with_blobs=blobs) for entry in sorted(siblings, key=lambda each: str(each["path"]))
        ],
    }


@router.get("/api/models/{repo:repository}/tree/{revision}/{path:path}")
@router.get("/api/models/{repo:repository}/tree/{revision}")
def list_hub_files(
    found: FromRepository, tx: Transaction, path: str = "", recursive: Annotated[bool, Query()] = False
) -> list[dict[str, Any]]:
    """Files and folders below `path`, at any depth if `recursive`."""
    entries = [_readme_entry(tx, found), *(_entry(name, file) for name, file in found.files.items())]
    entries += [_folder_entry(name) for name in contents.folders(found.files)]
    below = f"{path.strip('/')}/" if path.strip("/") else ""
    if below and below[:-1] not in contents.folders(found.files):
        raise EntryNotFound(f"{found.id} has no folder {path}", commit=found.commit)
    listed = [entry for entry in entries if entry["path"].startswith(below)]
    direct = [entry for entry in listed if "/" not in entry["path"][len(below) :]]
    return sorted(listed if recursive else direct, key=lambda entry: str(entry["path"]))


@router.api_route("/{repo:repository}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
def get_hub_file(path: str, found: FromRepository, tx: Transaction, services: SharedServices) -> Response:
    """A redirect to the bytes, with what a client needs to know whether it has them already."""
    headers = {"X-Repo-Commit": found.commit, "Cache-Control": "no-store"}
    if path == README:
        text = contents.readme(tx, found.contents).encode()
        headers["ETag"] = f'"{hashlib.sha256(text).hexdigest()}"'
        return Response(text, media_type="text/markdown; charset=utf-8", headers=headers)
    file = found.files.get(path)
    if file is None:
        raise EntryNotFound(f"{found.id} has no file {path}", commit=found.commit)
    headers |= {"ETag": f'"{file.sha256}"', "X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.bytes)}
    expires, filename = services.settings.download_expires, path.rpartition("/")[2]
    link = services.store.presigned_get(file.object_key, expires=expires, filename=filename)
    return RedirectResponse(link, status_code=302, headers=headers)


def _entry(path: str, file: VersionFile) -> dict[str, Any]:
    """As the hub lists what is kept outside of git: by the pointer that git has instead."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.bytes}\n".encode()
    return {
        "type": "file",
        "path": path,
        "size": file.bytes,
        "oid": _git_id(pointer),
        "lfs": {"oid": file.sha256, "size": file.bytes, "pointerSize": len(pointer)},
    }


def _readme_entry(tx: Tx, found: Repository) -> dict[str, Any]:
    text = contents.readme(tx, found.contents).encode()
    return {"type": "file", "path": README, "size": len(text), "oid": _git_id(text)}


def _folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def _git_id(content: bytes) -> str:
    """Of a blob with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(entry: dict[str, Any], *, with_blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": entry["path"]}
    if with_blobs:
        sibling |= {"size": entry["size"], "blobId": entry["oid"]}
        if lfs := entry.get("lfs"):
            sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return sibling


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000Z"
