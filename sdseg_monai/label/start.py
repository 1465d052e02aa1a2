"""The start of MONAI Label's server with the app of this package."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from sdseg_monai.bundle import Bundle, config_errors
from sdseg_monai.errors import ArgumentError, InputError, make_logs_printable
from sdseg_monai.io.files import check_folder
from sdseg_monai.io.temporary import remove_abandoned
from sdseg_monai.label.processes import TEMPORARY_PREFIX

SHUTDOWN_SECONDS = 10  # for answers that are not finished


def prepare_server(
    studies: str, *, bundles: Sequence[str], host: str, port: int, work_dir: Path, trust: bool = False
) -> tuple[str, Callable[[], None]]:
    """Open studies and bundles and bind the port; MONAI Label reads its settings from the variables ``MONAI_LABEL_*``.

    Args:
        studies: folder of volumes or of DICOM files, or the URL of a DICOMweb server.
        bundles: names or folders; none for every installed bundle with weights.
        host: address to bind to.
        port: 0 for any free port.
        work_dir: folder for logs, fine-tuned weights and caches; it is made if it is missing.
        trust: run code of the bundles that does not come with this package, now and later.

    Returns:
        The server's URL, and a function that serves until it is interrupted.

    Raises:
        InputError: MONAI Label is not installed, or one of the arguments cannot be used.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise InputError(
            "MONAI Label is not installed here; it needs its own environment: make label-env, then "
            ".venv-label/bin/sdseg label"
        )
    if not studies.startswith(("http://", "https://")):
        if not (studies and Path(studies).is_dir()):
            raise InputError(
                f"{studies or 'no studies'}: no such folder, expected one of volumes or DICOM files, or a DICOMweb URL"
            )
        studies = str(Path(studies).resolve())
    for bundle in bundles:
        if "," in bundle:  # a comma separates bundles in MONAI Label's options
            raise InputError(f"{bundle}: the name of a bundle's folder contains a comma, rename it")
        Bundle.open(bundle)  # raises before MONAI Label is imported, which takes seconds
    work_dir = work_dir.resolve()
    check_folder(work_dir)
    _remove_leftovers(work_dir, studies)
    listener = _listen(host, port)
    try:
        port = listener.getsockname()[1]
        _set_environment(work_dir)
        for bundle in bundles:
            _check_code(Bundle.open(bundle, trust))
        return f"http://{host}:{port}", _server(studies, bundles, host, port, work_dir, listener)
    except BaseException:
        listener.close()
        raise


def _check_code(bundle: Bundle) -> None:
    """Raise :class:`~sdseg_monai.errors.InputError` if the code that will segment or train is not trusted."""
    with config_errors(bundle.config_file("inference")):
        bundle.config("inference")
    if bundle.config_file("train").is_file():
        with config_errors(bundle.config_file("train")):
            bundle.config("train", imports_modules=True)


def _server(
    studies: str, bundles: Sequence[str], host: str, port: int, work_dir: Path, listener: socket.socket
) -> Callable[[], None]:
    import uvicorn  # MONAI Label reads its settings from the environment when it is imported
    from monailabel.interfaces.utils.app import app_instance
    from monailabel.main import Main
    from monailabel.utils.others.generic import init_log_config

    from sdseg_monai.label.guard import LOCAL_HOSTS

    shutil.copyfile(Path(__file__).with_name("main.py"), work_dir / "main.py")  # where MONAI Label looks for an app
    main = Main(actions="start_server")
    arguments = ["start_server", "--app", str(work_dir), "--studies", studies, "--host", host, "--port", str(port)]
    hosts = LOCAL_HOSTS if host in LOCAL_HOSTS else ("*",)
    for key, value in (("bundles", ",".join(bundles)), ("hosts", ",".join(hosts))):
        arguments += ["--conf", key, value]
    main.start_server_init_settings(main.args_parser().parse_args(arguments))
    app_instance()  # made here, where an InputError still ends the command
    log_config = init_log_config(None, str(work_dir), "app.log", "INFO")  # a temporary file
    config = uvicorn.Config(
        "sdseg_monai.label.server:app", log_config=log_config, timeout_graceful_shutdown=SHUTDOWN_SECONDS
    )
    Path(log_config).unlink()
    make_logs_printable()
    server = uvicorn.Server(config)

    def serve() -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as Ctrl-C does, children first
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn raises it again after its shutdown
            pass
        finally:
            _stop_background_tasks()
        if not server.started:
            raise InputError(f"the server did not start, {work_dir / 'logs' / 'app.log'} says why")

    return serve


def _stop_background_tasks() -> None:
    """End trainings and scorings, which MONAI Label would let run on, and begin those that wait."""
    from monailabel.utils.async_tasks import utils

    for executor in utils.background_executors.values():
        executor.shutdown(wait=False, cancel_futures=True)
    for method in utils.background_processes:
        utils.stop_background_task(method)


def _listen(host: str, port: int) -> socket.socket:
    if not host:  # an empty host would mean all network interfaces
        raise ArgumentError("no host=ADDRESS, expected one, such as 127.0.0.1")
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ArgumentError(
            f"{host}:{port}: cannot listen there ({error}), name another host=ADDRESS or port=NUMBER"
        ) from error
    return listener


def _remove_leftovers(work_dir: Path, studies: str) -> None:
    """Remove what servers and trainings that were killed were writing: weights, labels, uploads."""
    remove_abandoned(work_dir / "uploads", TEMPORARY_PREFIX)
    remove_abandoned(Path(studies))
    for root in (work_dir, Path(studies) / "labels"):
        for folder, _, _ in os.walk(root):
            remove_abandoned(Path(folder))


def _set_environment(work_dir: Path) -> None:
    uploads = work_dir / "uploads"
    uploads.mkdir(mode=0o700, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(uploads)  # for uploaded files, readable by this user alone
    defaults = {
        "OMP_WAIT_POLICY": "PASSIVE",  # trainings and scorings are other processes on the same cores
        "MONAI_LABEL_TRACKING_ENABLED": "false",  # of MLflow
        "MONAI_LABEL_INFER_CONCURRENCY": "1",  # other inferences wait
        "MONAI_LABEL_INFER_TIMEOUT": "3600",
        "MONAI_LABEL_SESSION_PATH": str(work_dir / "sessions"),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
