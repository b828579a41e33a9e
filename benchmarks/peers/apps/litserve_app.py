"""LitServe: batches of `max_batch_size`, `workers_per_device` processes, as its batching guide describes it.

Started by benchmarks.peers with the Python of the peers' environment: python -m benchmarks.peers.apps.litserve_app
"""

# No `from __future__ import annotations`: LitServe looks at the types themselves.
import litserve  # type: ignore[import-not-found]
from fastapi import Request, Response  # type: ignore[import-not-found]

from benchmarks.peers.apps.usual import Prepared, Segmentation, Settings

BATCH_TIMEOUT_S = 0.02


class SegmentationAPI(litserve.LitAPI):  # type: ignore[misc]
    """The steps of a request, in LitServe's names."""

    def setup(self, device: str) -> None:
        self.model = Segmentation(Settings.read())

    def decode_request(self, request: Request) -> Prepared:
        return self.model.prepare(request["image"].file.read())  # a form by now

    def batch(self, inputs: list[Prepared]) -> list[Prepared]:
        return list(inputs)

    def predict(self, x: list[Prepared]) -> list[bytes]:
        logits_nchw = self.model.logits([item.input_hwc for item in x])
        return [self.model.png(logits, item) for logits, item in zip(logits_nchw, x, strict=True)]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="image/png")


def main() -> None:
    settings = Settings.read()
    api = SegmentationAPI(max_batch_size=settings.batch, batch_timeout=BATCH_TIMEOUT_S)
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=settings.workers, timeout=False
    )
    server.run(
        host="127.0.0.1",
        port=settings.port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
