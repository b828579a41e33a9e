"""Every error that a user can cause, on one page, with the HTTP status and exit code that it stands for.

A message names what was wrong, what was got and expected, and what to do next.
"""

from __future__ import annotations


class SegserveError(Exception):
    """Base of all. `status` is what the server answers, `exit_code` what a command ends with."""

    status = 500
    exit_code = 2


# --- what a client sent -------------------------------------------------------------------------------------


class RequestError(SegserveError):
    """The request cannot be answered as it is; another one is not affected."""

    status = 400


class BadImage(RequestError):
    """Not an image, empty, truncated or corrupt."""


class FormatNotAcceptable(RequestError):
    """The answer was asked for in a format that does not exist here."""

    status = 406


class ImageTooLarge(RequestError):
    """More pixels than allowed, judged from the header; or an answer larger than the server may send."""

    status = 413


class DecodeTimeout(RequestError):
    """Decoding takes longer than an image may take: more work than the server does for one."""

    status = 413


class ImageFormatNotServed(RequestError):
    """An image, but of a format that is not served."""

    status = 415


class UnknownClass(RequestError):
    """`classes=` names a class that the model does not have."""

    status = 422


class Overloaded(RequestError):
    """The request is fine, the server is not at the moment. `retry_after_s`: when to send it again."""

    status = 503

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


# --- what an operator or developer gave ---------------------------------------------------------------------


class SpecError(SegserveError):
    """model_spec.json is missing, torn, of another schema, or contradicts the files beside it."""


class EngineError(SegserveError):
    """The engine cannot be loaded on this host, or does not fit the spec."""


class EngineBroken(EngineError):
    """The engine worked and fails on everything now: only a new process can mend that."""


class CheckpointError(SegserveError):
    """A checkpoint is missing, torn, foreign or does not fit the model."""


class DatasetError(SegserveError):
    """A dataset description or one of its files is not usable."""


class UsageError(SegserveError):
    """Options that do not go together, a path that is not there."""


class ServerError(SegserveError):
    """The model server did not start, answered wrongly, or cannot be reached."""

    status = 503


class Unreachable(ServerError):
    """Nobody answers where the server should: it is starting, or gone."""


class CheckFailed(SegserveError):
    """The thing checked does not hold (parity, SLO, content of an answer)."""

    exit_code = 1


class Interrupted(SegserveError):
    """Asked to end before the work was done; all of it is saved. 75 is EX_TEMPFAIL of sysexits.h: start it again."""

    exit_code = 75
