"""Signals that ask to stop, made safe: they raise only where that leaves nothing half done."""

from __future__ import annotations

import signal


class Asked(Exception):
    """SIGINT, SIGTERM or SIGHUP came."""


class Interrupts:
    """Signals become `Asked`, but only where that leaves no process behind; before, they are remembered."""

    def __init__(self) -> None:
        self._asked = self._armed = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # under nohup a hang-up is ignored from the beginning, and stays so
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: object) -> None:
        self._asked = True
        if self._armed:
            raise Asked("interrupted")

    def arm(self) -> None:
        """From now on signals raise."""
        self._armed = True
        if self._asked:
            raise Asked("interrupted")

    def disarm(self) -> None:
        """From now on they don't: the end has begun."""
        self._armed = False
