"""Threads that decode, each with a deadline: a file that takes too long costs its sender an answer, nobody a thread.

A decoder cannot be interrupted. So a decode that is over its time is left alone: its request is answered, a spare
thread takes the place of its thread, and that one ends when the decoder lets go of it. Spare threads are counted; while
every thread is stuck, work is refused at once.

Whose fault it was is seen from the processor time: a file that used most of it up is refused for good (413); on a
machine that did not get round to it, the request may come again (503).

All that takes a decoder that lets go of Python's lock. JPEG 2000's does not: until it has ended, no other thread goes
on and no deadline is noticed. So only small ones are let in, of a second or so (segserve.limited_file.MAX_J2K_BYTES).

What is let into a decoder is done in a few seconds: segserve.limited_file sees to that. The deadline is for what no
rule foresees. It holds up the other images of a batch for (1 + SPARE_THREADS / threads) x its time at the most, if
there is such an image for every thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

from segserve.errors import DecodeTimeout, Overloaded

DECODE_TIMEOUT_S: Final = 10.0
SPARE_THREADS: Final = 4
"""Each holds a photo's memory and a share of a core for as long as its decoder runs."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Task(Generic[Result]):
    """A piece of work and where it is. Clocks count once `started` is set, `result` once `ended` is."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self.work = work
        self.started, self.ended = threading.Event(), threading.Event()
        self.started_at = 0.0
        self.cpu_clock = 0
        self.cpu_started_at = 0.0
        self.result: Result | None = None
        self.left_alone = False


class DecodePool:
    """`threads` at work at a time, and as many as SPARE_THREADS more that may be stuck.

    They are daemons: a stuck one does not keep the process alive.
    """

    def __init__(self, threads: int, timeout_s: float = DECODE_TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self._wanted = threads
        self._alive = self._stuck = 0
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[_Task[Any]] = SimpleQueue()
        for _ in range(threads):
            self._start()

    def map(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> list[Result | DecodeTimeout | Overloaded]:
        """`work`, which must not raise, for every item side by side. An error where its result did not come in time;
        what the work still does then, nobody looks at."""
        tasks: list[_Task[Result]] = [_Task(partial(work, item)) for item in items]
        for task in tasks:
            self._tasks.put(task)
        return [self._wait(task) for task in tasks]

    def _wait(self, task: _Task[Any]) -> Any:
        """Those before it in the queue have been waited for, so it is next, unless every thread is stuck."""
        while not task.started.wait(0.0 if self._all_stuck() else 0.05):
            with self._lock:
                if self._alive == self._stuck and not task.started.is_set():
                    task.left_alone = True
                    return Overloaded(
                        "every thread that decodes is busy with an image that takes too long; send this again later",
                        retry_after_s=self.timeout_s,
                    )
        task.ended.wait(max(0.0, task.started_at + self.timeout_s - time.monotonic()))
        with self._lock:
            if task.ended.is_set():
                return task.result
            task.left_alone = True
            self._stuck += 1
            used_s = time.clock_gettime(task.cpu_clock) - task.cpu_started_at  # while its thread is there
            if self._alive < self._wanted + SPARE_THREADS:
                self._start()
        return self._too_late(used_s)

    def _too_late(self, used_s: float) -> DecodeTimeout | Overloaded:
        late = f"the image was not decoded within {self.timeout_s:g} s"
        if used_s < self.timeout_s / 2:
            return Overloaded(
                f"{late}, the machine is busy; send it again later", retry_after_s=self.timeout_s
            )
        return DecodeTimeout(f"{late}; scale it down, or save it in another format")

    def _all_stuck(self) -> bool:
        with self._lock:
            return self._alive == self._stuck

    def _start(self) -> None:
        self._alive += 1
        threading.Thread(target=self._work, name="decode", daemon=True).start()

    def _work(self) -> None:
        while self._do(self._tasks.get()):
            pass

    def _do(self, task: _Task[Any]) -> bool:
        """Whether this thread is needed further. A frame of its own: between tasks no result is kept alive."""
        with self._lock:
            if task.left_alone:  # answered before it was begun
                return True
            task.started_at = time.monotonic()
            task.cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
            task.cpu_started_at = time.thread_time()
            task.started.set()
        task.result = task.work()
        with self._lock:
            task.ended.set()
            if not task.left_alone:
                return True
            self._stuck -= 1
            if self._alive - self._stuck <= self._wanted:
                return True
            self._alive -= 1  # a spare one has taken its place
            return False
