"""What a request must not be, whatever it is for, before MONAI Label sees it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from urllib.parse import parse_qsl, unquote

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

LOCAL_HOSTS = ("127.0.0.1", "localhost")
LONGEST_NAME = 200  # bytes; a file system's 255 less suffixes
LONGEST_REASON = 500


def is_plain_name(text: str) -> bool:
    """Say whether ``text`` can only name something in a folder, not lead out of it."""
    return 0 < len(text.encode()) <= LONGEST_NAME and text.isprintable() and not re.search(r"^\.|[/\\]", text)


def _is_off(text: str) -> bool:
    return text.lower() in ("false", "0", "no", "off", "n", "f")


PLAIN_NAME = f"a plain name of at most {LONGEST_NAME} bytes, not a path"
PARAMETERS: dict[str, tuple[Callable[[str], object], str]] = {  # of the query: what they may be
    **dict.fromkeys(("image", "label", "id", "tag", "session_id"), (is_plain_name, PLAIN_NAME)),
    "check_sum": (re.compile(r"((SHA256|SHA512|MD5):)?[0-9A-Fa-f]+").fullmatch, "SHA256:, SHA512: or MD5: and digits"),
    "lines": (re.compile(r"-?\d{1,9}").fullmatch, "a number of at most nine digits"),
    "run_sync": (_is_off, "false: such a task could not be stopped; GET says how far one is"),
    "uncompress": (_is_off, "false: archives are not unpacked here, send the volume"),
}


class Guard:
    """ASGI middleware: refuse what would harm, with a 4xx, one line in JSON and one in the log.

    That is bodies that are too large; paths where names are due, since MONAI Label joins ids, tags and session ids to
    folders as they come; and requests that another site's page makes the user's browser send, be it by its own name or
    by one of its names that leads here.

    Args:
        app: what is guarded; it answers a ``HTTPException`` that reading a body raises.
        hosts: names by which this server may be called, ``*`` among them for any.
        max_form: largest body of a form in bytes, whose files go to disk.
        max_body: largest body of anything else, which is held in memory.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], max_form: int, max_body: int) -> None:
        self.app = app
        self.hosts = hosts
        self.max_form = max_form
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
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
            await refuse(scope, error.status_code, error.detail)(scope, receive, send)
            return
        received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:  # it came without its length
                raise HTTPException(413, f"body: expected at most {limit} bytes")
            return message

        await self.app(scope, count, send)

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
    """Log why a request is refused and return the answer that says it.

    That something is not there is not logged where a client only looked: viewers ask again and again whether a training
    runs.
    """
    reason = " ".join(reason.split())[:LONGEST_REASON]
    if status != 404 or scope["method"] not in ("GET", "HEAD"):
        logger.warning("refused %s %r: %s", scope["method"], scope["path"][:LONGEST_REASON], reason)
    return JSONResponse({"detail": reason}, status)


def _check_path(path: str) -> None:
    decoded = path
    while (again := unquote(decoded)) != decoded:  # a DICOMweb server behind this one would decode once more
        decoded = again
    if ".." in re.split(r"[/\\]", decoded) or not decoded.isprintable():
        raise HTTPException(400, f"path {path!r}: expected no '..' and no control characters")


def _check_query(query: bytes) -> None:
    for name, value in parse_qsl(query.decode("latin-1"), encoding="utf-8", errors="replace"):
        is_valid, expected = PARAMETERS.get(name, (str.isprintable, "printable characters"))
        if not is_valid(value):
            raise HTTPException(400, f"{name}={value[:LONGEST_NAME]!r}: expected {expected}")
