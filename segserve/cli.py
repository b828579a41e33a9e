"""One way in for every command line: tyro reads the options, errors that a user made print without traceback."""

from __future__ import annotations

import errno
import os
import select
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from segserve.errors import SegserveError

Config = TypeVar("Config")

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What writing may meet at any time, without a name of a file."""
UNREAD = 128 + signal.SIGPIPE
"""Exit code where what was printed has no reader any more, as shells report it."""


def run(config_type: type[Config], main: Callable[[Config], int | None]) -> None:
    """Parse `sys.argv` into `config_type`, call `main`, exit with its code (0 done, 1 check failed, 2 usage).

    A file or folder that cannot be used is one line as well: what the operating system says of it. Who stops reading
    what is printed (`… --help | head`) gets no traceback either.

    The module docstring of `main`'s module becomes the help text.
    """
    try:
        code = _code_of(config_type, main)
        if sys.stdout is not None:  # as it is where it was closed from the start
            sys.stdout.flush()
    except BrokenPipeError:
        if not _drop_what_nobody_reads():
            raise
        code = UNREAD
    sys.exit(code)


def _code_of(config_type: type[Config], main: Callable[[Config], int | None]) -> int | str | None:
    """What to exit with; the words that belong to it are printed."""
    import tyro  # here, because the core ships where tyro is not installed

    doc = sys.modules[main.__module__].__doc__
    try:
        # `__post_init__` of a config raises SegserveError on values that make no sense
        return main(tyro.cli(config_type, description=doc)) or 0
    except SystemExit as end:  # tyro's after --help and wrong options; rich's where nobody reads
        return UNREAD if isinstance(end.__context__, BrokenPipeError) else end.code
    except SegserveError as error:
        try:
            print(f"error: {error}", file=sys.stderr)
        except OSError as gone:
            if gone.errno != errno.EIO:  # a terminal that was closed
                raise
        return error.exit_code
    except OSError as error:
        if (told := _of_a_gone_terminal(error)) is not None:
            return told.exit_code
        if error.filename is None and error.errno not in NO_SPACE:
            raise  # not about a file that the user named
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _of_a_gone_terminal(error: BaseException) -> SegserveError | None:
    """What was to be told when writing to the terminal failed, because it was closed."""
    if not isinstance(error, OSError) or error.errno != errno.EIO:
        return None
    before = error.__context__
    while before is not None and not isinstance(before, SegserveError):
        before = before.__context__
    return before


def _drop_what_nobody_reads() -> bool:
    """Point standard output and error elsewhere if they have no reader any more; returns whether one had none."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    # a pipe without a reader is in error, a socket whose peer is gone hung up
    gone = [found for found, events in poll.poll(0) if events & (select.POLLERR | select.POLLHUP)]
    for descriptor in gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return bool(gone)


def command(*arguments: object) -> str:
    """`python -m …` for a message: with the Python that runs this, ready to be pasted where this was called."""
    python, here = Path(sys.executable), Path.cwd()
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    return shlex.join([str(shown), "-m", *map(str, arguments)])
