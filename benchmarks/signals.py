"""SIGTERM and SIGHUP end a measurement as Ctrl-C does: first what it started in other processes, then itself.

with as_ctrl_c():
    ...   # KeyboardInterrupt, of which segserve.cli.run makes "interrupted" and exit code 130

What starts such processes enters this itself (loaded.py, mar_server.py, peers/servers.py), so commands need not.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

ASKING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Meanwhile the first of these signals raises KeyboardInterrupt, and later ones wait for the end that it began.

    Only where it would have ended the process at once: under nohup a hang-up stays ignored, and who has a handler keeps
    it, as the one that this was entered in. Threads can't have any.
    """
    in_main = threading.current_thread() is threading.main_thread()
    ours = [number for number in ASKING if in_main and signal.getsignal(number) == signal.SIG_DFL]
    asked = False

    def ask(_number: int, _frame: object) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise KeyboardInterrupt

    for number in ours:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
