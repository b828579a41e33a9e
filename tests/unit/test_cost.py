"""The cost line: what is counted, what is added over interruptions, and that the unknown is called unknown."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from segserve.errors import UsageError
from training.cost import CpuEnergy, GpuEnergy, Meter, report, sentence
from training.distributed import Processes
from training.machines import Machines
from training.progress import Progress, Spent

HOUR_S = 3600.0


def package(powercap: Path, name: str, joules: float, range_joules: float = 1000.0) -> None:
    folder = powercap / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    (folder / "max_energy_range_uj").write_text(f"{round(range_joules * 1e6)}\n")


def test_cpu_energy_over_both_packages_and_a_counter_that_starts_anew(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 900)
    package(tmp_path, "intel-rapl:1", 10)
    package(tmp_path, "intel-rapl:0:0", 5)  # a part of the first
    energy = CpuEnergy(tmp_path)
    package(tmp_path, "intel-rapl:0", 100)
    package(tmp_path, "intel-rapl:1", 60)
    package(tmp_path, "intel-rapl:0:0", 7)
    assert energy.joules() == pytest.approx(200 + 50)
    package(tmp_path, "intel-rapl:0", 130)
    assert energy.joules() == pytest.approx(280)


def test_energy_that_cannot_be_known(tmp_path: Path) -> None:
    assert math.isnan(CpuEnergy(tmp_path).joules())  # no RAPL here
    assert CpuEnergy(None).joules() == 0  # the machine's other process counts
    assert GpuEnergy(torch.device("cpu")).joules() == 0
    unknown = report(Spent(100, 10.0, HOUR_S, 0.0, math.nan), "a CPU", 1, None)
    assert unknown["energy_kwh"] is None
    assert unknown["energy_of"] is None
    assert "energy unknown" in sentence(unknown)
    # the CPUs' energy alone would pass for all of it
    assert report(Spent(100, 10.0, HOUR_S, math.nan, 3.6e6), "a GPU", 8, None)["energy_kwh"] is None


def test_report_in_figures_and_words() -> None:
    cost = report(Spent(7200, 1800.0, 2 * HOUR_S, 3.6e6, 1.8e6), "a GPU", 8, price_per_hour=12.5)
    assert cost == {
        "images_per_second": 4.0, "hours": 2.0, "devices": 8, "device": "a GPU", "energy_kwh": 1.5,
        "energy_of": "GPUs and CPU packages", "price": 25.0,
    }  # fmt: skip
    assert sentence(cost) == (
        "cost: 4.0 images/s, 2.00 h on 8 x a GPU, energy 1.500 kWh (GPUs and CPU packages), price 25.00"
    )
    on_cpu = report(Spent(0, 0.0, HOUR_S, 0.0, 3.6e6), "a CPU", 1, None)
    assert (on_cpu["energy_of"], on_cpu["images_per_second"], on_cpu["price"]) == ("CPU packages", None, None)


def test_a_resumed_training_adds_up() -> None:
    meter = Meter(Processes(0, 1, torch.device("cpu")))
    before = Spent(1000, 50.0, 100.0, 0.0, 7.0)
    meter.before = Progress.of(Progress(3, (1.5, 0.25), before).tensors()).spent
    assert meter.before == before
    meter.lap()
    meter.step(16)
    spent = meter.spent()
    assert spent.images == 1016
    assert spent.training_s > 50
    assert spent.wall_s > 100


def test_prices_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="--price-per-hour -1"):
        Machines(price_per_hour=-1)
    with pytest.raises(UsageError, match="--save-every-steps 0"):
        Machines(save_every_steps=0)
