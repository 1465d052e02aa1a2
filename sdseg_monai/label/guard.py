"""What a request must not do before MONAI Label sees it."""

from __future__ import annotations

import logging
import re
from urllib.parse import parse_qsl, urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

NAME_PARAMETERS = {"image", "label", "id", "tag", "session_id"}
PLAIN_NAME = re.compile(r"\w[\w .+@=-]{0,254}")


class Guard:
    """ASGI middleware: refuse what would harm, with a 4xx and a line in the log.

    That is bodies that are too large; names that are paths, since MONAI Label joins ids, tags and session ids to
    folders as they come; and requests that another site's page makes the user's browser send, which MONAI Label allows.

    Args:
        app: what is guarded.
        max_bytes: largest body of a request.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            status, reason = refusal
            logger.warning("refused %s %s: %s", scope["method"], scope["path"], reason)
            await JSONResponse({"detail": reason}, status)(scope, receive, send)
            return
        received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:  # a body that came without its length
                logger.warning("refused %s %s: a body of more than %d bytes", scope["method"], scope["path"], received)
                raise HTTPException(413, f"body of more than {self.max_bytes} bytes")
            return message

        await self.app(scope, count, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and reason, None where nothing before the body speaks against the request."""
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, f"Content-Length {length!r}: expected a number"
        if int(length) > self.max_bytes:
            return 413, f"body of {int(length)} bytes: expected at most {self.max_bytes}"
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and urlsplit(origin).netloc != headers.get(b"host", b"").decode("latin-1"):
            return 403, f"a page of {origin} asked, expected this server's own"
        if ".." in scope["path"].split("/"):
            return 400, f"path {scope['path']!r}: expected no '..'"
        query = parse_qsl(scope["query_string"].decode("latin-1"), encoding="utf-8", errors="replace")
        for name, value in query:
            if name in NAME_PARAMETERS and not PLAIN_NAME.fullmatch(value):
                return 400, f"{name}={value!r}: expected a plain name, not a path"
        return None
