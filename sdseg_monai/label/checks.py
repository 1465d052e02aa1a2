"""Checks of the body of a request, for all of MONAI Label's endpoints."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from fastapi import BackgroundTasks, Request
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from starlette.exceptions import HTTPException

from sdseg_monai.errors import InputError
from sdseg_monai.io.volumes import VOLUME_SUFFIXES
from sdseg_monai.label.guard import PLAIN_NAME, is_plain_name
from sdseg_monai.label.options import check_options
from sdseg_monai.label.stores.volumes import BINARY_SUFFIX

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
MAX_OPTIONS = 16 << 10  # bytes; escaped twice they become one argument of a process, for which Linux allows 128 KiB
MAX_DEPTH = 20  # levels of lists and objects


async def check_request(request: Request, background_tasks: BackgroundTasks) -> AsyncIterator[None]:
    """Refuse a request on which MONAI Label would fail or do harm; remove its uploaded files where it fails later.

    Raises:
        HTTPException: there is no task of that name, or the body is too large or of another kind.
        InputError: an option, a file's name or a field cannot be used.
    """
    section, tasks = request.scope["path"].split("/")[1], app_instance().task_names()
    for name in request.path_params.values():
        if section in tasks and name not in tasks[section]:
            raise HTTPException(404, f"{section} {name!r}: expected {' or '.join(tasks[section])}")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() in FORMS:
        for field, value in (await request.form()).multi_items():
            if not isinstance(value, str):
                _check_upload(value)
            elif section == "datastore" and field in ("params", "info"):
                _check_info(parse_object(value or "{}"), {"strategy", *tasks["scoring"]})
            elif field == "params":
                check_options(parse_object(value or "{}"))
    elif body := await request.body():
        if section == "infer":
            raise HTTPException(415, "body: expected a form with the options as JSON in its field params")
        if len(body) > MAX_OPTIONS:
            raise HTTPException(413, f"options of {len(body)} bytes: expected at most {MAX_OPTIONS}")
        check_options(parse_object(body), tasks.get(section, ()))
    try:
        yield
    except Exception:
        await background_tasks()  # they remove the files, but FastAPI runs them only after a success
        raise


async def check_proxy(request: Request) -> None:
    """Refuse to forward a request where there is no DICOMweb server behind this one; else prepare it.

    Raises:
        HTTPException: the studies are a folder.
    """
    if not settings.MONAI_LABEL_STUDIES.startswith(("http://", "https://")):
        raise HTTPException(404, "the studies are a folder: there is no DICOMweb server behind this one")
    if request.url.query:  # MONAI Label drops it, so each search would return the studies of all patients
        request.path_params["path"] += f"?{request.url.query}"
    await request.body()  # read here, since the forwarding runs in a thread, without this event loop


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object in ``text``, of which it is checked that it can be written as JSON again.

    Raises:
        InputError: it is not an object, or holds NaN, an infinite number, an incomplete character or too many levels.
    """
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        depth = _depth(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{text[:80]!r}: expected a JSON object ({error})") from error
    if not isinstance(value, dict) or depth > MAX_DEPTH:
        raise InputError(f"{text[:80]!r}: expected a JSON object of at most {MAX_DEPTH} levels")
    return value


def _depth(value: object) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, items), default=0)


def _check_upload(upload: Any) -> None:
    """Refuse a name with which MONAI Label could not make a file; remove the client's folder, which Slicer sends."""
    name = re.split(r"[/\\]", upload.filename)[-1]
    if not is_plain_name(name) or not name.lower().endswith((*VOLUME_SUFFIXES, BINARY_SUFFIX)):
        raise InputError(f"file {name[:80]!r}: expected {PLAIN_NAME}, ending in {', '.join(VOLUME_SUFFIXES)}")
    upload.filename = name


def _check_info(info: Mapping[str, object], server_names: Collection[str]) -> None:
    for name in server_names & info.keys():
        raise InputError(
            f"{name}={info[name]!r}: expected another name, the server keeps its own values under this one"
        )
