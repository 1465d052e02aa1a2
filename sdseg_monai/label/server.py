"""The web application that uvicorn runs: MONAI Label's endpoints behind the guard and the checks of this package."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import monailabel.app
import requests
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from monailabel.config import settings
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    info,
    login,
    logs,
    ohif,
    proxy,
    scoring,
    session,
)
from monailabel.endpoints import train as training
from monailabel.endpoints.infer import ResultType, run_inference
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import remove_file
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sdseg_monai.errors import InputError
from sdseg_monai.io.volumes import volume_stem
from sdseg_monai.label.checks import check_proxy, check_request, parse_object
from sdseg_monai.label.guard import LOCAL_HOSTS, Guard, refuse

MAX_FORM = 2 << 30  # bytes
MAX_BODY = 16 << 20
FORM_LIMITS = {"max_files": 1, "max_fields": 16}  # fields are kept in memory
FASTEST_REFRESH = 3  # seconds
# in place of FastAPI's pages, which load scripts of other sites
START_PAGE = """<!doctype html><html lang="en"><title>SDSeg</title><h1>SDSeg: MONAI Label server</h1>
<ul><li><a href="ohif/">OHIF, a viewer</a><li><a href="info/">what is served</a><li><a href="logs/">log</a>
<li><a href="openapi.json">requests that the server takes</a></ul></html>
"""
MAX_INFERENCES = 32  # running or waiting; each occupies one of the server's 40 threads
STATUS: dict[type[Exception], int] = {  # for exceptions that would else give a 500 with a traceback
    InputError: 422,
    ImageNotFoundException: 404,
    LabelNotFoundException: 404,
    MONAILabelException: 400,
    FileNotFoundError: 404,
    TimeoutError: 503,  # an inference waited too long
    requests.RequestException: 502,
}

inference_slots = threading.BoundedSemaphore(MAX_INFERENCES)
sdseg_router = APIRouter()


@sdseg_router.post("/infer/{model}", dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])
def infer(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    output: ResultType = ResultType.all,
) -> Response:
    """Run MONAI Label's inference, unless too many others wait; a DICOM SEG is made in the same way as of a label."""
    if not (image or session_id or file):
        raise InputError("no image, session_id or file: expected one of them")
    is_seg = output == ResultType.dicom_seg
    if is_seg and (session_id or file):  # the slices of an uploaded image are not in the studies
        raise InputError("output=dicom_seg: expected an image of the studies, a DICOM SEG refers to its slices")
    if not inference_slots.acquire(blocking=False):
        raise HTTPException(429, f"{MAX_INFERENCES} inferences are waiting already, try again later")
    try:
        if not is_seg:
            return run_inference(background_tasks, model, image, session_id, params, file, None, output)
        options = parse_object(params or "{}")
        result = app_instance().infer({**options, "model": model, "image": image})
        background_tasks.add_task(remove_file, result["file"])
        mask, not_trusted = Path(result["file"]), result["params"].get("not_trusted", "")
        seg = app_instance().datastore().make_seg(image, mask, options.get("label_info"), not_trusted)
        background_tasks.add_task(remove_file, str(seg))
        return FileResponse(seg, media_type="application/dicom", filename=f"{image}.dcm")
    finally:
        inference_slots.release()


@sdseg_router.put("/datastore/")
@sdseg_router.put("/datastore/image")
def add_image(
    background_tasks: BackgroundTasks,
    user: Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))],
    file: UploadFile,
    image: str = "",
    params: Annotated[str, Form()] = "{}",
) -> dict[str, str]:
    """Add an image, by default under its file's name, which MONAI Label would cut from ``scan.1`` to ``scan``."""
    image = image or volume_stem(Path(file.filename or ""))
    return datastore.add_image(background_tasks, image, params, file, user.username)


@sdseg_router.get("/datastore/dataset", dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))])
def download_dataset(background_tasks: BackgroundTasks, limit_cases: int | None = None) -> FileResponse:
    """Send an archive of the labelled images and their labels, and remove its file, which MONAI Label would keep."""
    response = datastore.download_dataset(limit_cases)
    background_tasks.add_task(remove_file, response.path)
    return response


@sdseg_router.get("/", include_in_schema=False)
def start_page() -> HTMLResponse:
    """Return a page with the addresses of this server that people open."""
    return HTMLResponse(START_PAGE)


@sdseg_router.get("/logs/", dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))])
def log(lines: int = 300, html: bool = True, text: bool = False, refresh: int = 0) -> Response:
    """Return the last lines of the log as plain text; MONAI Label's page would load scripts of other sites.

    Args:
        lines: number of lines; 0 for the whole log.
        html: for clients that send it; the answer is plain text also then.
        text: as ``html``.
        refresh: seconds after which a browser asks again; 0 for never.
    """
    file = Path(settings.MONAI_LABEL_APP_DIR, "logs", "app.log")
    response = logs.get_logs(str(file), lines, html=False, text=True, refresh=0)
    if refresh > 0:
        response.headers["Refresh"] = str(max(refresh, FASTEST_REFRESH))
    return response


def _in_threads(monailabel_router: Any) -> APIRouter:
    """Return MONAI Label's routes, run in threads: in the event loop each would make all other requests wait."""
    router = APIRouter()
    for route in monailabel_router.routes:
        options = {name: getattr(route, name) for name in ("name", "methods", "summary", "tags", "include_in_schema")}
        router.add_api_route(route.path, _in_thread(route.endpoint), **options)
    return router


def _in_thread(endpoint: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    def run(**arguments: Any) -> Any:
        return asyncio.run(endpoint(**arguments))

    run.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return run


def _answer(status: int) -> Callable[[Request, Any], Response]:
    return lambda request, error: refuse(request.scope, status, str(getattr(error, "msg", error)))


def _answer_http(request: Request, error: Any) -> Response:
    status = 422 if error.status_code == 500 else error.status_code  # MONAI Label answers a client's mistakes with 500
    return refuse(request.scope, status, str(error.detail))


def _answer_invalid(request: Request, error: Any) -> Response:
    reasons = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
    return refuse(request.scope, 422, "; ".join(reasons))


def _answer_nobody(request: Request, error: Any) -> Response:
    return refuse(request.scope, 400, "the client hung up before it had sent all of the request")


app = FastAPI(
    title=settings.MONAI_LABEL_PROJECT_NAME,
    lifespan=monailabel.app.lifespan,
    docs_url=None,
    redoc_url=None,
    form_limits=FORM_LIMITS,
)
dependencies = [Depends(check_request)]
app.include_router(sdseg_router, dependencies=dependencies)
# left out: model files, which anyone could replace; whole-slide images; and /reload, which keeps the old app
for module in (info, batch_infer, training, activelearning, scoring, datastore, logs, ohif, session):
    app.include_router(_in_threads(module.router), dependencies=dependencies)
app.include_router(_in_threads(proxy.router), dependencies=[Depends(check_proxy)])
if settings.MONAI_LABEL_AUTH_ENABLE:
    app.include_router(login.router, dependencies=dependencies)
app.add_api_route("/favicon.ico", monailabel.app.favicon, include_in_schema=False)
app.mount("/static", StaticFiles(directory=monailabel.app.static_dir))
for kind, status in STATUS.items():
    app.add_exception_handler(kind, _answer(status))
app.add_exception_handler(ClientDisconnect, _answer_nobody)
app.add_exception_handler(HTTPException, _answer_http)
app.add_exception_handler(RequestValidationError, _answer_invalid)
app.add_middleware(
    Guard,
    hosts=settings.MONAI_LABEL_APP_CONF.get("hosts", ",".join(LOCAL_HOSTS)).split(","),
    max_form=MAX_FORM,
    max_body=MAX_BODY,
)
