"""What each answer took and showed, as lines that TorchServe turns into Prometheus metrics, and a line for the log.

A worker tells its metrics by printing them: Java reads `[METRICS]…` lines from its standard output, adds them up over
all workers, and drops those that deploy/metrics.yaml does not declare. ts.metrics prints and flushes each by itself,
200 µs for an image; here all lines of a batch go out in one piece, in a quarter of that. Java takes 5 µs a line.

    metrics = Metrics("rooms", spec.version, engine.device, spec.classes)
    logger.info(metrics.lines(requests, replies))
"""

from __future__ import annotations

import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from segserve.reply import Reply
from segserve.request import Request

SMOOTHED_IMAGES: Final = 100
"""The class shares are a mean over about so many images, the older the less."""
SHARES_EVERY_S: Final = 1.0
"""A line for each class is too much for each batch where there are 150 classes, and a mean moves slowly."""

_Labels = dict[str, str]


class Metrics:
    """Of one worker, which serves one version of a model. To be used by one thread.

    model: as registered, which is what its path has. clock_s: seconds from anywhere, that never go back.
    """

    def __init__(
        self,
        model: str,
        version: str,
        device: str,
        class_names: Sequence[str],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model, self._version = label_value(model), label_value(version)
        self._device = label_value(device)
        self._shares = _ClassShares(class_names, clock_s)
        self._host = label_value(platform.node())

    def lines(self, requests: Sequence[Request], replies: Sequence[Reply]) -> str:
        """Of a batch: one log line for each request, then its metrics. Never anything of a request's content."""
        logged = [self._log_line(request, reply) for request, reply in zip(requests, replies, strict=True)]
        return "\n".join(
            [*logged, *self._steps(replies), *self._counts(replies), *self._class_shares(replies)]
        )

    def _log_line(self, request: Request, reply: Reply) -> str:
        photo = "{1}x{0}".format(*reply.photo_hw) if reply.photo_hw else "-"
        return (
            f"answered request={request.id()} server_id={request.server_id} model={self._model} "
            f"version={self._version} status={reply.status} bytes_in={request.num_bytes()} "
            f"photo={photo} total_ms={reply.timings_ms.get('total', 0.0):.1f}"
        )

    def _steps(self, replies: Sequence[Reply]) -> Iterator[str]:
        for reply in replies:
            for step, duration_ms in reply.timings_ms.items():
                labels = {"device": self._device, "step": step}
                yield self._line("segserve_step_seconds", "HISTOGRAM", f"{duration_ms / 1e3:.6f}", labels)

    def _counts(self, replies: Sequence[Reply]) -> Iterator[str]:
        """Sums over the batch: one line each, however many images."""
        for status, count in sorted(Counter(reply.status for reply in replies).items()):
            yield self._line("segserve_answers_total", "COUNTER", count, {"status": str(status)})
        sizes = [reply.photo_hw for reply in replies if reply.status == 200 and reply.photo_hw is not None]
        if sizes:
            device = {"device": self._device}
            yield self._line("segserve_images_total", "COUNTER", len(sizes), device)
            yield self._line("segserve_pixels_total", "COUNTER", sum(h * w for h, w in sizes), device)
        together = Counter(reply.batch_size for reply in replies if reply.batch_size)
        for size, images in sorted(together.items()):  # an engine call of n images is in n replies
            labels = {"device": self._device, "size": str(size)}
            yield self._line("segserve_batches_total", "COUNTER", f"{images / size:g}", labels)

    def _class_shares(self, replies: Sequence[Reply]) -> Iterator[str]:
        for name, share in self._shares.updated(replies):
            yield self._line("segserve_class_share", "GAUGE", f"{share:.5f}", {"class": name})

    def _line(self, name: str, kind: str, value: float | str, labels: _Labels) -> str:
        """In the order of deploy/metrics.yaml: Java goes by the position of the values, not by their names."""
        pairs = {"model": self._model, "version": self._version, **labels}
        listed = ",".join(f"{label}:{text}" for label, text in pairs.items())
        return (
            f"[METRICS]{name}.unit:{value}|#{listed}|#type:{kind}|#hostname:{self._host},{int(time.time())}"
        )


class _ClassShares:
    """The mean share of each class in the answers, smoothed over about SMOOTHED_IMAGES."""

    def __init__(self, class_names: Sequence[str], clock_s: Callable[[], float]) -> None:
        self._names = [label_value(name) for name in class_names]
        self._clock_s = clock_s
        self._mean = np.zeros(len(class_names))
        self._images = 0
        self._told_s = -np.inf

    def updated(self, replies: Sequence[Reply]) -> list[tuple[str, float]]:
        """(class, share) of all classes, when it's time to tell them again."""
        for reply in replies:
            if reply.class_shares is not None:
                self._images += 1
                # the plain mean at first, so that the first image does not weigh for the first hundred
                weight = max(1 / self._images, 1 / SMOOTHED_IMAGES)
                self._mean += weight * (reply.class_shares - self._mean)
        now_s = self._clock_s()
        if self._images == 0 or now_s - self._told_s < SHARES_EVERY_S:
            return []
        self._told_s = now_s
        return list(zip(self._names, self._mean.tolist(), strict=True))


def label_value(text: str) -> str:
    """Free of what TorchServe's lines use as separators, and never empty: such a label would drop the line.

    >>> label_value("cuda:0"), label_value("bed, double")
    ('cuda-0', 'bed; double')
    """
    text = text.replace(",", ";").replace(":", "-").replace("|", "/")
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).strip() or "-"
