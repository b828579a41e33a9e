"""Ray Serve: replicas, `serve.batch` around the engine, decoding and masks in a thread of each replica.

Started by benchmarks.peers with the Python of the peers' environment: python -m benchmarks.peers.apps.ray_app
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor

import ray  # type: ignore[import-not-found]
from ray import serve
from starlette.requests import Request  # type: ignore[import-not-found]
from starlette.responses import Response  # type: ignore[import-not-found]

from benchmarks.peers.apps.usual import Prepared, Segmentation, Settings

OBJECT_STORE_BYTES = 200_000_000
SETTINGS = Settings.read()


@serve.deployment(
    num_replicas=SETTINGS.workers,
    max_ongoing_requests=4 * SETTINGS.batch,
    ray_actor_options={"num_cpus": SETTINGS.threads},
)
class Segmenter:
    """One replica. Heavy steps run in threads: the event loop of the replica must stay free."""

    def __init__(self) -> None:
        self._model = Segmentation(SETTINGS)
        # one at a time: full-resolution logits of a large photo weigh gigabytes
        self._around = ThreadPoolExecutor(1)
        self._engine = ThreadPoolExecutor(1)

    @serve.batch(max_batch_size=SETTINGS.batch, batch_wait_timeout_s=0.02)  # type: ignore[untyped-decorator]
    async def logits(self, batch: list[Prepared]) -> list[object]:
        inputs = [item.input_hwc for item in batch]
        return list(
            await asyncio.get_running_loop().run_in_executor(self._engine, self._model.logits, inputs)
        )

    async def __call__(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._around, self._model.prepare, await request.body())
        logits_chw = await self.logits(prepared)
        png = await loop.run_in_executor(self._around, self._model.png, logits_chw, prepared)
        return Response(png, media_type="image/png")


def main() -> None:
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    ray.init(
        num_cpus=SETTINGS.workers * SETTINGS.threads,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=tempfile.gettempdir(),
        _node_ip_address="127.0.0.1",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": SETTINGS.port})
    serve.run(Segmenter.bind(), name="peer")  # type: ignore[attr-defined]
    while not ended:
        signal.pause()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
