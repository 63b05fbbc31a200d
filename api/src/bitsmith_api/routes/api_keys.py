"""API keys of the caller's project."""

from typing import Annotated

from bitsmith_core.errors import Forbidden
from bitsmith_core.identity import keys, roles
from bitsmith_core.ids import ApiKeyId, is_api_key_id
from fastapi import APIRouter, Depends

from bitsmith_api.auth import Caller
from bitsmith_api.deps import Audited, Bounds, FromCaller, Transaction, checked_cursor, require
from bitsmith_api.deps.body import body_schema, json_body
from bitsmith_api.deps.parameters import own
from bitsmith_api.errors import documented
from bitsmith_api.schemas.identity import ApiKey, ApiKeyList, IssuedApiKey, NewApiKey

router = APIRouter(prefix="/v1/api_keys", tags=["API keys"], route_class=Audited)


_key = own(
    "key_id", what="API key", example="key-0kp1p4n3vtsu5qc1q0o8g0a4lk",
    kind=ApiKeyId, is_id=is_api_key_id, belongs_to=keys.belongs_to,
)  # fmt: skip
PathKeyId = Annotated[ApiKeyId, Depends(_key)]


@router.post(
    "",
    summary="Create an API key",
    dependencies=[require("keys:write")],
    responses=documented(400, 401, 413, 415, 422, 500, 503),
    openapi_extra=body_schema(NewApiKey),
)
def create_api_key(
    new: Annotated[NewApiKey, Depends(json_body(NewApiKey))], caller: FromCaller, tx: Transaction
) -> IssuedApiKey:
    """The answer shows the key; nothing else ever will. A key makes no key that may do more than itself."""
    roles.check(new.role, new.scopes)
    _check_no_more_than_own(new, caller)
    issued = keys.issue(
        tx,
        project=caller.project,
        name=new.name,
        role=new.role,
        scopes=new.scopes,
        expires_at=new.expiry,
        created_by=caller.key_id,
    )
    return IssuedApiKey.issued(issued)


@router.get("", summary="List API keys", dependencies=[require("keys:read")], responses=documented(401, 422, 500, 503))
def list_api_keys(bounds: Bounds, caller: FromCaller, tx: Transaction) -> ApiKeyList:
    """Newest first, revoked and expired ones too."""
    after = checked_cursor(bounds.after, is_api_key_id, what="the id of an API key")
    found = keys.page(tx, project=caller.project, limit=bounds.limit + 1, after=ApiKeyId(after) if after else None)
    return ApiKeyList.of([ApiKey.of(row) for row in found], limit=bounds.limit)


@router.get(
    "/{key_id}", summary="Get an API key", dependencies=[require("keys:read")], responses=documented(401, 404, 500, 503)
)
def get_api_key(key_id: PathKeyId, tx: Transaction) -> ApiKey:
    """What it may do, when it expires and when it was last used."""
    return ApiKey.of(keys.get(tx, key_id))


@router.delete(
    "/{key_id}",
    summary="Revoke an API key",
    dependencies=[require("keys:write")],
    responses=documented(401, 404, 500, 503),
)
def revoke_api_key(key_id: PathKeyId, tx: Transaction) -> ApiKey:
    """From the next request on it lets nobody in. It stays in the list, for the audit trail names it."""
    return ApiKey.of(keys.revoke(tx, key_id))


def _check_no_more_than_own(new: NewApiKey, caller: Caller) -> None:
    beyond = sorted(roles.granted(new.role, new.scopes) - caller.scopes)
    if beyond:
        raise Forbidden(
            f"this API key may not {', '.join(beyond)} and so cannot make a key that may; give the new one fewer scopes"
        )
