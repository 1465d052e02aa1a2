"""MONAI Label's own web application behind our guard; uvicorn's ``sdseg_monai.label.server:app``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Annotated, Any

import monailabel.app
from fastapi import BackgroundTasks, Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from monailabel.config import settings
from monailabel.endpoints.infer import ResultType, run_inference
from monailabel.endpoints.train import run_model
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from starlette.middleware.trustedhost import TrustedHostMiddleware

from sdseg_monai.errors import InputError
from sdseg_monai.label.guard import Guard

logger = logging.getLogger(__name__)

MAX_BYTES = 2 << 30  # of a request's body
ERRORS = {  # what MONAI Label leaves to become a 500
    InputError: 422,
    json.JSONDecodeError: 400,
    ImageNotFoundException: 404,
    LabelNotFoundException: 404,
    MONAILabelException: 400,
}

stock = monailabel.app.app
app = FastAPI(lifespan=stock.router.lifespan_context, openapi_url=None)


@app.post("/infer/{model}", dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])
def infer(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: ResultType | None = None,
) -> Response:
    """Run MONAI Label's inference in a thread: a server that segments still answers."""
    if not isinstance(json.loads(params or "{}"), dict):
        raise InputError(f"params {params[:80]!r}: expected a JSON object")
    if not (image or session_id or file):
        raise InputError("no image, session_id or file: expected one of them")
    return run_inference(background_tasks, model, image, session_id, params, file, label, output)


@app.post("/train/{model}", dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))])
def train(
    model: str, params: dict[str, Any] | None = None, run_sync: bool = False, enqueue: bool = False
) -> dict[str, Any]:
    """Start a training as MONAI Label does, and refuse at once what could only fail later."""
    app_instance().check_training(model, params or {})
    return run_model(model, params, run_sync, enqueue)


def _answer(status: int) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        reason = str(getattr(error, "msg", "") or error)
        logger.warning("refused %s %s: %s", request.method, request.url.path, reason)
        return JSONResponse({"detail": reason}, status)

    return answer


app.mount("/", stock)
for application in (app, stock):
    for error, status in ERRORS.items():
        application.add_exception_handler(error, _answer(status))
app.add_middleware(Guard, max_bytes=MAX_BYTES)
# a page that a name of its own leads here must not read patients' images
app.add_middleware(
    TrustedHostMiddleware, allowed_hosts=settings.MONAI_LABEL_APP_CONF.get("hosts", "127.0.0.1,localhost").split(",")
)
