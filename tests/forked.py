"""Processes that a test starts: forked, so that they need not import everything anew."""

import multiprocessing
import os
import sys

FORK = multiprocessing.get_context("fork")


class Forked(FORK.Process):
    """`act(*arguments)` in a process of its own, with more in its environment; what it prints is in
    the file `printed`, and what it returns is its exit code."""

    def __init__(self, printed, act, *arguments, **environment):
        super().__init__()
        self.printed, self.act, self.arguments = printed, act, arguments
        self.environment = environment
        self.start()

    def run(self):
        os.environ.update(self.environment)
        printed = self.printed.open("w", buffering=1)  # never closed: a traceback comes last
        sys.stdout = sys.stderr = printed
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        sys.exit(self.act(*self.arguments))

    def ended(self, code=0):
        """Waits for its end, which must be this one; gives what it has printed."""
        self.join(300)
        text = self.printed.read_text()
        assert self.exitcode == code, text
        return text


def all_ended(processes):
    """Waits for their end without an error, after which none is left."""
    try:
        for process in processes:
            process.ended()
    finally:
        for process in processes:
            process.kill()
