"""Commands that are run in the process of the tests, and mind no signals there."""

from __future__ import annotations


class Mute:
    """In the place of deploy.interrupts.Interrupts: signals are the test runner's."""

    def arm(self) -> None: ...

    def disarm(self) -> None: ...
