"""Video files are read in a process of their own: what stalls or crashes there is given up.

Decoding happens inside C libraries, which no thread can interrupt, and a read from a dead disk or
from a named pipe waits for ever. So every process that reads videos starts one helper, once, and
kills it when it does not answer in time; the next file gets a new one. The helper is started
afresh and never forked, so that decord never meets a fork, and it does not load torch.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from .video_choice import ReadingPlan, plan
from .video_index import VideoError
from .video_readers import Frames, read_frames

TIME_LIMIT = 60.0  # seconds for one clip, the start of the helper included
GRACE = 5  # seconds after which a helper whose owner is gone ends itself


class GivenUpError(VideoError):
    """A file was not read in time, or reading it crashed."""


class Helper:
    """One helper process and the connection to it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for its owner, which then closes the connection
        )
        theirs.close()

    def ask(self, limit: float, *request: Any) -> Any:
        """The answer. Raises TimeoutError, and EOFError or ConnectionError if the helper died."""
        self.connection.send((limit, *request))
        if not self.connection.poll(limit):
            raise TimeoutError
        return self.connection.recv()

    def kill(self) -> None:
        self.connection.close()
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a dead disk holds even the killed
            self.process.wait(GRACE)


_helpers = threading.local()


def ask(path: Path, limit: float, call: Callable[..., Any], *arguments: Any) -> Any:
    """`call(path, *arguments)` in this thread's helper.

    Raises VideoError as the call does, GivenUpError if it takes more than `limit` seconds or
    crashes twice: a helper may have been killed for reasons that have nothing to do with the file.
    """
    for _ in range(2):
        try:
            answer = ask_once(limit, call.__name__, path, *arguments)
        except TimeoutError:
            raise GivenUpError(f"given up after {limit:g} seconds (time_limit)") from None
        except (EOFError, ConnectionError):
            continue
        if isinstance(answer, Exception):
            raise answer
        return answer
    raise GivenUpError("reading it crashes")


def ask_once(limit: float, *request: Any) -> Any:
    """The answer of this thread's helper, which does not outlive a missing answer."""
    helper: Helper | None = getattr(_helpers, "helper", None)
    if helper is None or helper.owner != os.getpid():  # a forked worker starts its own
        helper = _helpers.helper = Helper()
    try:
        return helper.ask(limit, *request)
    except BaseException:  # also an interrupt: a late answer would be taken for the next one
        _helpers.helper = None
        helper.kill()
        raise


def serve(connection: Connection) -> None:
    """Answer requests until the owner closes the connection or is gone."""
    calls = {call.__name__: call for call in (plan, read_planned)}
    while True:
        try:
            limit, name, *arguments = connection.recv()
        except EOFError:
            return
        signal.alarm(math.ceil(limit) + GRACE)  # ends this process, whatever a library is doing
        try:
            answer = calls[name](*arguments)
        except VideoError as problem:
            answer = problem
        except Exception as problem:
            answer = VideoError(f"{type(problem).__name__}: {problem}")
        signal.alarm(0)
        connection.send(answer)


def read_planned(
    path: Path, how: ReadingPlan, frames: Int64[np.ndarray, " T"], short_side: int | None
) -> Frames:
    """`read_frames` as planned."""
    return read_frames(path, how.index, frames, reader=how.reader, short_side=short_side)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
