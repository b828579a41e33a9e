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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from deploy import processes
from deploy.processes import memory_mib

EVERY_S = 1.0


class Sampler:
    """A thread that looks once a second.

    A sample: t (s since 1970); client_cores, server_cores (CPU time over time, 1 = one core busy); java_mib,
    workers_mib (resident); gpus: a list of {"gpu" (as the driver counts), "cuda" (as CUDA counts, None for one that it
    does not see), "busy" 0..1, "memory_mib", "power_w"}. What cannot be known is None, and `missing` says why.
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
            "gpus": self._look_at_gpus(),
        }

    def _look_at_gpus(self) -> list[dict[str, Any]]:
        seen = self._gpus.sample()
        self.missing += [line for line in self._gpus.refusals() if line not in self.missing]
        return seen


class Gpus:
    """All NVIDIA GPUs that the driver shows; none, and why, where there is no driver."""

    def __init__(self) -> None:
        self.missing, self._nvml, self._handles = "", None, list[Any]()
        self._refused: dict[str, str] = {}
        uuids = list[str]()
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
            uuids = [_uuid(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
            self._handles = handles
        except ImportError:
            self.missing = "GPU utilisation, memory, power: nvidia-ml-py is not installed"
        except Exception as error:  # NVMLError has a class for each reason, made at run time
            self.missing = f"GPU utilisation, memory, power: no NVIDIA driver answers here ({error})"
        in_cuda = cuda_numbers() if uuids else {}
        self._cuda = [in_cuda.get(uuid) for uuid in uuids]
        if uuids and not any(uuid in in_cuda for uuid in uuids):
            why = "CUDA's are no whole boards, as in MIG mode" if in_cuda else "torch sees no GPU here"
            self.missing = f"power of cuda:N: {why}, so which board that is is not known"

    def sample(self) -> list[dict[str, Any]]:
        """Now."""
        found = []
        for number, (handle, in_cuda) in enumerate(zip(self._handles, self._cuda, strict=True)):
            assert self._nvml is not None
            busy = memory_mib = power_w = None
            with self._told(f"utilisation of GPU {number}"):
                busy = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            with self._told(f"memory of GPU {number}"):
                memory_mib = self._nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20
            with self._told(f"power of GPU {number}"):
                power_w = self._nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
            found.append({
                "gpu": number, "cuda": in_cuda, "busy": busy, "memory_mib": memory_mib, "power_w": power_w,
            })  # fmt: skip
        return found

    def refusals(self) -> list[str]:
        """What the driver did not tell so far, each once with its first reason."""
        return [f"{what}: the driver does not tell it ({why})" for what, why in self._refused.items()]

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Some boards don't measure power, in MIG mode none tells its utilisation: the rest is known all the same."""
        assert self._nvml is not None
        try:
            yield
        except self._nvml.NVMLError as error:
            self._refused.setdefault(what, str(error))


def cuda_numbers() -> dict[str, int]:
    """UUID → number of each GPU that CUDA shows here. CUDA_VISIBLE_DEVICES hides and renumbers them, but not for NVML.

    Empty where torch is no CUDA build, or cannot use the GPUs.
    """
    import torch  # here, because it takes seconds and most hosts have no GPU to ask about

    if not torch.cuda.is_available():
        return {}
    devices = range(torch.cuda.device_count())
    return {_uuid(torch.cuda.get_device_properties(number).uuid): number for number in devices}


def _uuid(told: object) -> str:
    """NVML says GPU-…, torch leaves that out."""
    text = told.decode() if isinstance(told, bytes) else str(told)
    return text.removeprefix("GPU-")


def power_w(samples: Sequence[dict[str, Any]], cuda: int, began: float, ended: float) -> float | None:
    """Mean power over that time of the GPU that CUDA gives this number; None where it is not known."""
    seen = [
        one["power_w"]
        for sample in samples
        if began <= sample["t"] <= ended
        for one in sample["gpus"]
        if one["cuda"] == cuda and one["power_w"] is not None
    ]
    return sum(seen) / len(seen) if seen else None


def _family(pid: int | None) -> list[int]:
    if pid is None:
        return []
    with contextlib.suppress(*processes.GOING):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []
