"""One photo to one version, and what came back: mask, who answered, how long it took. What rollouts judge by."""

from __future__ import annotations

import io
import re
import time
from dataclasses import dataclass

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.addresses import reachable
from deploy.exchange import message
from deploy.run_folder import Running
from segserve.errors import CheckFailed

ANSWER_TIMEOUT_S = 60.0
PAUSE_TIMES = 2.0
"""So many times as long as an answer of a version that nobody else reaches took, nothing is asked of it: its worker
would take the processor from the one that serves."""
LEAST_AGREEMENT = {"fp32": 0.999, "bf16": 0.97, "fp16": 0.97, "int8": 0.9}
"""Share of a golden photo's pixels that must have the checkpoint's class, by the precision that served it. Below what
export demands on the host where it was built (segserve/thresholds.py): another CPU or JPEG decoder moves a few."""


def least_agreement(engine: str) -> float:
    """Of LEAST_AGREEMENT, by what an answer says that made it, such as `openvino-int8`."""
    return LEAST_AGREEMENT.get(engine.rpartition("-")[2], LEAST_AGREEMENT["fp32"])


@dataclass(frozen=True)
class Seen:
    """An answer that is a mask: uint8 (H, W). `handler_ms` is what the worker took, without waiting for it."""

    version: str
    engine: str
    labels: NDArray[np.uint8]
    latency_ms: float
    handler_ms: float


class Asker:
    """Raises CheckFailed for anything but a mask. `resting`: the version that is to be asked gently."""

    def __init__(self, running: Running, name: str, resting: str) -> None:
        self._running, self._name, self._resting = running, name, resting
        self._http = httpx.Client(base_url=reachable(running.url), timeout=ANSWER_TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, photo: bytes, version: str | None = None) -> Seen:
        """The mask that `version`, or the default, makes of an image file."""
        seen = self._ask(photo, version)
        if version == self._resting:
            time.sleep(PAUSE_TIMES * seen.latency_ms / 1e3)
        return seen

    def _ask(self, photo: bytes, version: str | None) -> Seen:
        who = f"{self._name} {version or '(default)'}"
        path = f"/predictions/{self._name}" + (f"/{version}" if version else "")
        token = self._running.token("inference")
        headers = {"Accept": "image/png", "Content-Type": "application/octet-stream"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        started = time.perf_counter()
        try:
            answer = self._http.post(path, content=photo, headers=headers)
        except httpx.TransportError as error:
            raise CheckFailed(f"{who} did not answer: {type(error).__name__} {error}") from None
        latency_ms = 1e3 * (time.perf_counter() - started)
        if answer.status_code != 200:
            raise CheckFailed(f"{who} answered {message(answer)}")
        said = answer.headers.get("x-segserve-version", "")
        if version and said != version:
            raise CheckFailed(f"{who} says that it is version {said or '(none)'}")
        total = re.search(r"total;dur=([\d.]+)", answer.headers.get("server-timing", ""))
        return Seen(
            said, answer.headers.get("x-segserve-engine", ""), _labels(answer, who), latency_ms,
            float(total[1]) if total else latency_ms,
        )  # fmt: skip


def require_golden(seen: Seen, labels: NDArray[np.uint8], who: str, photo: str) -> float:
    """The share of pixels that are as the checkpoint has them. Raises: CheckFailed if they are too few."""
    if seen.labels.shape != labels.shape:
        raise CheckFailed(
            f"{who} made a mask of {seen.labels.shape[1]}x{seen.labels.shape[0]} of {photo}, which has "
            f"{labels.shape[1]}x{labels.shape[0]}"
        )
    agreement = float((seen.labels == labels).mean())
    least = least_agreement(seen.engine)
    if agreement < least:
        raise CheckFailed(
            f"{who} does not segment like its checkpoint: {100 * agreement:.2f} % of the pixels of {photo} have the "
            f"right class, {100 * least:.1f} % are expected of {seen.engine}"
        )
    return agreement


def _labels(answer: httpx.Response, who: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(answer.content), formats=["PNG"]) as image:
            return np.asarray(image, np.uint8)
    except (OSError, SyntaxError) as error:
        raise CheckFailed(f"{who} answered 200 with something that is no mask: {error}") from None
