"""An event loop in a thread: what lets plain calls use something asynchronous."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # it has one of these
    from deploy.client import AsyncClient

CLEAR_UP_S: Final = 1.0
"""Closing what broken answers left open takes no time; a call that nobody waits for any more may hang."""


class LoopThread:
    """A client on an event loop of its own in a thread. Of use only in the process that made it."""

    def __init__(self, client: AsyncClient) -> None:
        self.pid = os.getpid()
        self.client = client
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="client", daemon=True)
        runs = threading.Event()
        self.loop.call_soon(runs.set)
        self._thread.start()
        runs.wait()  # in a child, a copy of a loop that does not run yet would be closed, and the original with it

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._clear_up(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _clear_up(self) -> None:
        """An answer that broke off leaves its readers open, for tasks that asyncio complains of if they never run."""
        await self.client.aclose()
        await self.loop.shutdown_asyncgens()
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=CLEAR_UP_S)
