"""The processes that a server starts for trainings and scorings end with it, even where it is killed."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil

SERVER = "SDSEG_LABEL_SERVER"  # environment variable: the number of the server's process
TEMPORARY_PREFIX = "tmp-"  # of the files that come and go with a request; without a dot, where a suffix would begin
CHECK_SECONDS = 1.0
END_SECONDS = 10.0  # for what a stopped training still removes or writes


def end_with_server() -> None:
    """Make this process end when the server is gone; called first by the server itself, which it names to the others.

    A process that is interrupted ends as one that the user stops with Ctrl-C: its temporary files are removed.
    """
    server = int(os.environ.setdefault(SERVER, str(os.getpid())))
    if server == os.getpid():
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a server in the background of a shell ignores it
    threading.Thread(target=_watch, args=(server,), daemon=True).start()


def server_runs() -> bool:
    """Tell whether the server that started this process still runs; True in the server itself."""
    return _runs(int(os.environ.get(SERVER, os.getpid())))


def _watch(server: int) -> None:
    while _runs(server):
        time.sleep(CHECK_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)  # unlike interrupt_main, it wakes a thread that sleeps
    time.sleep(END_SECONDS)
    os._exit(1)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
