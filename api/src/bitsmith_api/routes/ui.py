"""The web UI: static files, and index.html for every address that a view answers. Needs no key: it holds no data."""

from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import RedirectResponse, Response

from bitsmith_api import static
from bitsmith_api.errors import documented

router = APIRouter(include_in_schema=False)

_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",  # plots and their downloads are drawn from the page's own bytes
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)

_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked again each time and answered 304: a new version shows at once
    "Vary": "Accept-Encoding",
}


@router.get("/")
async def redirect_to_ui() -> RedirectResponse:
    return RedirectResponse("/ui/", status_code=307)


@router.api_route("/ui", methods=["GET", "HEAD"])
async def redirect_to_slash() -> RedirectResponse:
    return RedirectResponse("/ui/", status_code=308)


@router.api_route("/ui/{path:path}", methods=["GET", "HEAD"], responses=documented(404))
def get_ui_file(
    path: str,
    if_none_match: Annotated[str | None, Header()] = None,
    accept_encoding: Annotated[str, Header()] = "",
) -> Response:
    """The file, or index.html for an address of a view; a file that is missing is 404, not a page."""
    file = static.find(path)
    etag = f'"{file.sha256}"'
    headers = {**_HEADERS, "ETag": etag}
    if if_none_match is not None and etag in {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}:
        return Response(status_code=304, headers=headers)
    if "gzip" in accept_encoding and file.gzipped is not None:
        return Response(file.gzipped, media_type=file.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.content, media_type=file.media_type, headers=headers)
