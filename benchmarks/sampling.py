"""What the machine did each second while a load ran: client and server CPU, memory, GPUs.

with Sampler(Path("out/samples.jsonl"), server_pid=running.pid) as sampler:
    sampler.client_pid = locust.pid
    ...
sampler.samples[0]["server_cores"], sampler.missing
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from deploy import processes
from deploy.processes import memory_mib

EVERY_S = 1.0


class Sampler:
    """A thread that looks once a second.

    A sample: t (s since 1970); client_cores, server_cores (CPU time over time, 1 = one core busy); java_mib,
    workers_mib (resident); gpus: a list of {"gpu", "busy" 0..1, "memory_mib", "power_w" or None}. What cannot be
    known is None, and `missing` says why.
    """

    def __init__(self, file: Path, server_pid: int | None) -> None:
        self.samples: list[dict[str, Any]] = []
        self.missing: list[str] = []
        self.client_pid: int | None = None
        self._file, self._server_pid = file, server_pid
        self._gpus = Gpus()
        self._used: dict[int, float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        if server_pid is None:
            self.missing.append("server CPU and memory: the server is not ours (local ones: give --run-dir)")
        if self._gpus.missing:
            self.missing.append(self._gpus.missing)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        before = time.monotonic()
        with self._file.open("a") as file:
            while not self._end.wait(EVERY_S):
                now = time.monotonic()
                sample = self._sample(now - before)
                before = now
                self.samples.append(sample)
                file.write(json.dumps(sample) + "\n")
                file.flush()

    def _sample(self, seconds: float) -> dict[str, Any]:
        client, server = _family(self.client_pid), list[int]()
        if self._server_pid is not None:
            server = processes.session_members(self._server_pid)
        workers = [pid for pid in server if pid != self._server_pid]
        ours = self._server_pid is not None
        used = {pid: processes.processor_time_s([pid]) for pid in (*client, *server)}
        cores = {
            pid: max(0.0, time_s - self._used.get(pid, time_s)) / seconds for pid, time_s in used.items()
        }
        self._used = used
        return {
            "t": time.time(),
            "client_cores": sum(cores[pid] for pid in client) if client else None,
            "server_cores": sum(cores[pid] for pid in server) if ours else None,
            "java_mib": memory_mib([pid for pid in server if pid == self._server_pid]) if ours else None,
            "workers_mib": memory_mib(workers) if ours else None,
            "gpus": self._gpus.sample(),
        }


class Gpus:
    """All NVIDIA GPUs that the driver shows; none, and why, where there is no driver."""

    def __init__(self) -> None:
        self.missing, self._nvml, self._handles = "", None, list[Any]()
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        except ImportError:
            self.missing = "GPU utilisation, memory, power: nvidia-ml-py is not installed"
        except Exception as error:  # NVMLError has a class for each reason, made at run time
            self.missing = f"GPU utilisation, memory, power: no NVIDIA driver answers here ({error})"

    def sample(self) -> list[dict[str, Any]]:
        """Now."""
        found = []
        for number, handle in enumerate(self._handles):
            assert self._nvml is not None
            busy, memory = (
                self._nvml.nvmlDeviceGetUtilizationRates(handle),
                self._nvml.nvmlDeviceGetMemoryInfo(handle),
            )
            power_w = None
            with contextlib.suppress(self._nvml.NVMLError):  # not every board measures it
                power_w = self._nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
            found.append(
                {"gpu": number, "busy": busy.gpu / 100, "memory_mib": memory.used / 2**20, "power_w": power_w}
            )
        return found


def power_w(samples: Sequence[dict[str, Any]], gpu: int, began: float, ended: float) -> float | None:
    """Mean power of one GPU over that time; None where it is not known."""
    seen = [
        one["power_w"]
        for sample in samples
        if began <= sample["t"] <= ended
        for one in sample["gpus"]
        if one["gpu"] == gpu and one["power_w"] is not None
    ]
    return sum(seen) / len(seen) if seen else None


def _family(pid: int | None) -> list[int]:
    if pid is None:
        return []
    with contextlib.suppress(*processes.GOING):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []
