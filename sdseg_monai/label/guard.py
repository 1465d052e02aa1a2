"""What a request must not be, whatever it is for, before MONAI Label sees it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from urllib.parse import parse_qsl, unquote

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

LONGEST_NAME = 200  # bytes; a file system's 255 less suffixes
LONGEST_REASON = 300


def is_plain_name(text: str) -> bool:
    """Say whether ``text`` can only be the name of something in a folder, not a path out of it."""
    return 0 < len(text.encode()) <= LONGEST_NAME and text.isprintable() and not re.search(r"^\.|[/\\]", text)


def _is_off(text: str) -> bool:
    return text.lower() in ("false", "0", "no", "off", "n", "f")


NAME = (is_plain_name, f"a plain name of at most {LONGEST_NAME} bytes, not a path")
PARAMETERS: dict[str, tuple[Callable[[str], object], str]] = {  # of the query: what they may be
    **dict.fromkeys(("image", "label", "id", "tag", "session_id"), NAME),
    "check_sum": (re.compile(r"((SHA256|SHA512|MD5):)?[0-9A-Fa-f]+").fullmatch, "SHA256:, SHA512: or MD5: and digits"),
    "lines": (re.compile(r"-?\d{1,9}").fullmatch, "a number"),
    "run_sync": (_is_off, "false, since others would have to wait; a GET tells how far a task is"),
    "uncompress": (_is_off, "false, since archives are not unpacked here; send the volume"),
}


class Guard:
    """ASGI middleware: refuse what would harm, with a 4xx, one line in JSON and one in the log.

    That is bodies that are too large; paths where MONAI Label, which joins ids, tags and session ids to folders as they
    come, needs names; and requests that another site's page makes the user's browser send, by its own name or by one
    that leads here.

    Args:
        app: what is guarded.
        hosts: names under which this server may be asked, ``*`` for any.
        max_form: largest body of a form in bytes; its files go to disk.
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
        wrong = self._wrong(scope, headers)
        if wrong is not None:
            await refuse(scope, *wrong)(scope, receive, send)
            return
        limit = self._limit(headers)
        received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received <= limit:
                return message
            # it came without its length: answer, and let the application believe that the client has gone
            if received != float("inf"):
                received = float("inf")
                await refuse(scope, 413, f"body: expected at most {limit} bytes")(scope, receive, send)
            return {"type": "http.disconnect"}

        async def pass_on(message: Message) -> None:
            if received <= limit:
                await send(message)

        await self.app(scope, count, pass_on)
