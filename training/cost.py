"""What a training costs: images a second, hours, energy where the machine counts it, and money if a price is given.

    meter = Meter(processes)
    meter.lap(); ...; meter.step(batch_size)
    cost = report(meter.spent(), "NVIDIA H100", num_devices=8, price_per_hour=98.3)

GPUs count their energy since the driver was loaded (NVML, Volta and later), CPU packages theirs in RAPL
(/sys/class/powercap), which only root may read on most systems. Memory, fans, disks and network are in neither.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from training.distributed import Processes, join_sum, local_rank
from training.progress import Spent

POWERCAP = Path("/sys/class/powercap")
READ_EVERY_S = 60.0  # RAPL's counters start anew at about 260 kJ: 20 minutes of a busy server
JOULES_PER_KWH = 3.6e6


class Meter:
    """Counts what this process spends from now on, on top of `before`."""

    def __init__(self, processes: Processes) -> None:
        self.before, self.processes = Spent(), processes
        self.images, self.training_s = 0, 0.0
        self._started = self._lap = self._read = time.perf_counter()
        self._gpu = GpuEnergy(processes.device)
        self._cpu = CpuEnergy(POWERCAP if local_rank() == 0 else None)  # once a machine

    def lap(self) -> None:
        """Steps begin here."""
        self._lap = time.perf_counter()

    def step(self, num_images: int) -> None:
        """A step of so many images, over all processes, is done."""
        now = time.perf_counter()
        self.training_s += now - self._lap
        self.images += num_images
        self._lap = now
        if now - self._read > READ_EVERY_S:
            self._cpu.joules()
            self._read = now

    def spent(self) -> Spent:
        """In all so far. All processes must call it: energy is added up."""
        energy = torch.tensor(
            [self._gpu.joules(), self._cpu.joules()], dtype=torch.float64, device=self.processes.device
        )
        gpu, cpu = join_sum(energy).tolist()
        wall_s = time.perf_counter() - self._started
        return self.before + Spent(self.images, self.training_s, wall_s, gpu, cpu)


class GpuEnergy:
    """Joules of one GPU since this was made; 0 for a CPU, nan where they cannot be known."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu, self._nvml, self._handle = device.type == "cuda", None, None
        self._first = 0.0
        if self._on_gpu:
            try:
                import pynvml

                pynvml.nvmlInit()
                uuid = str(torch.cuda.get_device_properties(device).uuid)
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}".encode())
                self._nvml = pynvml
                self._first = self._now()
            except (
                Exception
            ):  # not installed, or NVMLError, which has a class for each reason, made at run time
                self._nvml = None

    def _now(self) -> float:
        assert self._nvml is not None
        joules: float = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3
        return joules

    def joules(self) -> float:
        """Until now."""
        if not self._on_gpu:
            return 0.0
        return self._now() - self._first if self._nvml is not None else math.nan


class CpuEnergy:
    """Joules of this machine's CPU packages since this was made, nan where RAPL can't be read; None: another counts."""

    def __init__(self, powercap: Path | None) -> None:
        self._counts = powercap is not None
        # intel-rapl:0 is a package (AMD's too); intel-rapl:0:0 is a part of it
        folders = sorted(powercap.glob("intel-rapl:?")) if powercap is not None else []
        self._total = 0.0
        self._last: dict[Path, float] | None = None
        try:
            self._range = {folder: _number(folder / "max_energy_range_uj") for folder in folders}
            self._last = {folder: _number(folder / "energy_uj") for folder in folders} or None
        except (OSError, ValueError):
            self._last = None

    def joules(self) -> float:
        """Until now; to be called more often than the counters start anew."""
        if not self._counts:
            return 0.0
        if self._last is None:
            return math.nan
        for folder, last in self._last.items():
            now = _number(folder / "energy_uj")
            self._total += (now - last if now >= last else now - last + self._range[folder]) / 1e6
            self._last[folder] = now
        return self._total


def _number(file: Path) -> float:
    return float(file.read_text())


def report(spent: Spent, device: str, num_devices: int, price_per_hour: float | None) -> dict[str, Any]:
    """For JSON. What is not known is None; `energy_of` says whose energy it is."""
    on_gpus = spent.gpu_joules != 0  # nan too
    known = {"GPUs": spent.gpu_joules if on_gpus else math.nan, "CPU packages": spent.cpu_joules}
    parts = {name: joules for name, joules in known.items() if not math.isnan(joules)}
    if on_gpus and "GPUs" not in parts:
        parts = {}  # the CPUs' alone would look like all of it
    hours = spent.wall_s / 3600
    return {
        "images_per_second": spent.images / spent.training_s if spent.training_s else None,
        "hours": hours,
        "devices": num_devices,
        "device": device,
        "energy_kwh": sum(parts.values()) / JOULES_PER_KWH if parts else None,
        "energy_of": " and ".join(parts) or None,
        "price": None if price_per_hour is None else hours * price_per_hour,
    }


def sentence(cost: dict[str, Any]) -> str:
    """The same for people."""
    speed = cost["images_per_second"]
    said = [
        f"{speed:.1f} images/s" if speed else "no step made",
        f"{cost['hours']:.2f} h on {cost['devices']} x {cost['device']}",
        f"energy {cost['energy_kwh']:.3f} kWh ({cost['energy_of']})"
        if cost["energy_of"]
        else "energy unknown",
    ]
    if cost["price"] is not None:
        said.append(f"price {cost['price']:.2f}")
    return "cost: " + ", ".join(said)
