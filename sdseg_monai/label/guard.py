"""Checks of the size, headers, path and query of every request, before MONAI Label sees it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from urllib.parse import parse_qsl, unquote

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdseg_monai.errors import printable

logger = logging.getLogger(__name__)

LOCAL_HOSTS = ("127.0.0.1", "localhost")
LONGEST_NAME = 200  # bytes; file systems allow 255, suffixes included
LONGEST_REASON = 500

# What a browser may load for a page of this server: nothing, but OHIF, a program, its own files. Its bundled code needs
# inline scripts, eval and workers made of blobs; it also names fonts of another site, which are left out.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
OHIF_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)


def is_plain_name(text: str) -> bool:
    """Tell whether ``text`` can be the name of a file in a folder, and is not a path that leads out of it."""
    return 0 < len(text.encode()) <= LONGEST_NAME and text.isprintable() and not re.search(r"^\.|[/\\]", text)


def _is_false(text: str) -> bool:
    return text.lower() in ("false", "0", "no", "off", "n", "f")


PLAIN_NAME = f"a plain name of at most {LONGEST_NAME} bytes, not a path"
# parameters of the query: a check of the value, and what messages say is expected
PARAMETERS: dict[str, tuple[Callable[[str], object], str]] = {
    **dict.fromkeys(("image", "label", "id", "tag", "session_id"), (is_plain_name, PLAIN_NAME)),
    "check_sum": (re.compile(r"((SHA256|SHA512|MD5):)?[0-9A-Fa-f]+").fullmatch, "SHA256:, SHA512: or MD5: and digits"),
    "lines": (re.compile(r"-?\d{1,9}").fullmatch, "a number of at most nine digits"),
    "run_sync": (_is_false, "false: a synchronous task could not be stopped; GET tells a task's progress"),
    "uncompress": (_is_false, "false: archives are not unpacked here, send the volume"),
}


class Guard:
    """ASGI middleware that refuses harmful requests with a 4xx status, one line in JSON and one in the log.

    All answers carry a content security policy: a page loads nothing from elsewhere, and a file that a client has sent
    runs no scripts when another client opens it.

    Harmful are bodies that are too large; paths in place of names, since MONAI Label joins ids, tags and session ids to
    folders unchecked; and requests that a page of another site makes the user's browser send (``Origin``), also where a
    name of that site resolves to this server (``Host``, DNS rebinding).

    Args:
        app: the guarded application; it must answer a ``HTTPException`` that is raised while it reads a body.
        hosts: names by which this server may be called; ``*`` among them allows any.
        max_form: largest body of a form in bytes; its files are kept on the disk.
        max_body: largest body of any other request in bytes; it is kept in memory.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], max_form: int, max_body: int) -> None:
        self.app = app
        self.hosts = hosts
        self.max_form = max_form
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request to the application, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        is_form = headers.get(b"content-type", "").lower().startswith("multipart/form-data")
        limit = self.max_form if is_form else self.max_body
        try:
            self._check_headers(headers, limit)
            _check_path(scope["path"])
            _check_query(scope["query_string"])
        except HTTPException as error:
            await refuse(scope, error.status_code, error.detail)(scope, receive, _with_policy(scope["path"], send))
            return
        body_bytes = 0

        async def receive_and_count() -> Message:
            nonlocal body_bytes
            message = await receive()
            body_bytes += len(message.get("body", b""))
            if body_bytes > limit:  # the request had no Content-Length
                raise HTTPException(413, f"body: expected at most {limit} bytes")
            return message

        await self.app(scope, receive_and_count, _with_policy(scope["path"], send))

    def _check_headers(self, headers: dict[bytes, str], limit: int) -> None:
        if int(headers.get(b"content-length", "0")) > limit:
            raise HTTPException(413, f"body of {headers[b'content-length']} bytes: expected at most {limit}")
        host = headers.get(b"host", "")
        if "*" not in self.hosts and re.sub(r":\d*$", "", host).lower() not in self.hosts:
            raise HTTPException(400, f"Host {host!r}: expected {' or '.join(self.hosts)}")
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise HTTPException(403, f"Origin {origin!r}: expected this server's own pages only")


def refuse(scope: Scope, status: int, reason: str) -> JSONResponse:
    """Log why a request is refused, and return the answer with that reason.

    A 404 to a request that only reads is not logged: viewers ask again and again whether a training is running.

    Args:
        scope: of the request.
        status: HTTP status of the answer.
        reason: for the client; it becomes one line of at most ``LONGEST_REASON`` characters.
    """
    reason = printable(" ".join(reason.split()))[:LONGEST_REASON]
    if status != 404 or scope["method"] not in ("GET", "HEAD"):
        logger.warning("refused %s %r: %s", scope["method"], scope["path"][:LONGEST_REASON], reason)
    return JSONResponse({"detail": reason}, status)


def _with_policy(path: str, send: Send) -> Send:
    async def send_with_policy(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = OHIF_POLICY if path.startswith("/ohif") else POLICY
            headers["X-Content-Type-Options"] = "nosniff"
        await send(message)

    return send_with_policy


def _check_path(path: str) -> None:
    plain_path = path
    while (decoded_path := unquote(plain_path)) != plain_path:  # a DICOMweb server behind this one decodes once more
        plain_path = decoded_path
    if ".." in re.split(r"[/\\]", plain_path) or not plain_path.isprintable():
        raise HTTPException(400, f"path {path!r}: expected no '..' and no control characters")


def _check_query(query: bytes) -> None:
    for name, value in parse_qsl(query.decode("latin-1"), encoding="utf-8", errors="replace"):
        is_valid, expected = PARAMETERS.get(name, (str.isprintable, "printable characters"))
        if not is_valid(value):
            raise HTTPException(400, f"{name}={value[:LONGEST_NAME]!r}: expected {expected}")
