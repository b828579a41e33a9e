"""What `benchmarks.regress` concludes from turns that are made up, and the file of ratios that it keeps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import regress, turns
from benchmarks.regress import RegressConfig
from segserve.errors import UsageError

SAMPLES = {name: [1.0 + 0.01 * (turn % 3) for turn in range(14)] for name in regress.FIGURES}


def test_kept_ratios_are_judged_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mar, kept = tmp_path / "x.mar", tmp_path / "ratios.toml"
    mar.touch()
    measured = dict(SAMPLES)
    monkeypatch.setattr(regress, "measure", lambda _: measured)

    def regressed(update: bool = False) -> int:
        return regress.main(RegressConfig(mar, ratios=kept, update=update))

    with pytest.raises(UsageError, match="--update"):
        regressed()
    assert regressed(update=True) == 0
    assert regress.read(kept)[1]["decode_over_engine"].value == pytest.approx(1.01, rel=0.01)
    assert regressed() == 0
    measured["served_over_engine"] = [0.8 * value for value in SAMPLES["served_over_engine"]]
    capsys.readouterr()
    assert regressed() == 1
    worse = [line for line in capsys.readouterr().out.splitlines() if line.startswith("worse: ")]
    assert len(worse) == 1
    assert worse[0].startswith("worse: images/s of 8 clients")
    kept.write_text(kept.read_text().replace("tolerance = 0.08", "tolerance = 0.5"))
    assert regressed() == 0  # what people allow holds
    assert regressed(update=True) == 0
    assert regress.read(kept)[1]["served_over_engine"].tolerance == 0.5


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        ([1.0] * 11 + [math.nan] * 3, 1, "nan, kept 1.01, as nothing was measured in too many turns"),
        ([math.nan] * 14, 1, "nan, kept 1.01, as nothing was measured in too many turns"),
        ([9.0] * 13 + [0.0], 1, "8.36, kept 1.01, by the whole interval of their difference"),
        ([1.0] * 13 + [0.0], 0, ""),
    ],
)
def test_a_ratio_that_is_no_number_in_each_turn_is_judged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    values: list[float], expected: int, said: str,
) -> None:  # fmt: skip
    mar, kept = tmp_path / "x.mar", tmp_path / "ratios.toml"
    mar.touch()
    regress.write(kept, SAMPLES, {})
    monkeypatch.setattr(regress, "measure", lambda _: SAMPLES | {"decode_over_engine": values})
    assert regress.main(RegressConfig(mar, ratios=kept)) == expected
    worse = [line for line in capsys.readouterr().out.splitlines() if line.startswith("worse: ")]
    assert len(worse) == expected
    assert all(
        f"decoding over the engine's step, one client: {said} (better is lower" in line for line in worse
    )


@pytest.mark.parametrize(
    ("line", "changed", "message"),
    [
        ("measured = ", "# measured = ", "measured"),
        ("value = 1.009", "value = 0.0", "expected above 0"),
        ("value = 1.009", "value = nan", "expected above 0"),
        ("[figures.served_over_engine]", "[figures.something]", "something"),
    ],
)
def test_a_file_of_ratios_is_read_before_minutes_of_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, changed: str, message: str
) -> None:
    mar, kept = tmp_path / "x.mar", tmp_path / "ratios.toml"
    mar.touch()
    regress.write(kept, SAMPLES, {})
    assert line in kept.read_text()
    kept.write_text(kept.read_text().replace(line, changed, 1))
    monkeypatch.setattr(regress, "measure", lambda _: pytest.fail("it was measured"))
    with pytest.raises(UsageError, match=message + ".*; remove it and write it with --update"):
        regress.main(RegressConfig(mar, ratios=kept))


def test_served_speed_is_set_beside_the_engine_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone:
        """So many images/s at that batch size, and twice that after the load."""

        def __init__(self, batch_size: int, speed: float) -> None:
            self.batch_size, self.speed = batch_size, speed

        def images_per_s(self, batch_size: int, duration_s: float) -> float:
            assert batch_size == self.batch_size
            self.speed *= 2
            return self.speed / 2

    served = dict.fromkeys(turns.FIGURES, 5.0) | {"images/s": 27.0, "p50, one client": 100.0, "engine": 50.0}
    monkeypatch.setattr(turns, "turn", lambda *_: served)
    both, one = Alone(4, 20.0), Alone(1, 10.0)
    found = regress._turn(None, both, one, [], 4)  # type: ignore[arg-type]
    assert found["served_over_engine"] == pytest.approx(27 / 30)
    assert found["one_client_over_engine"] == pytest.approx(100 / (1000 / 15))
    assert found["mask_and_encode_over_engine"] == pytest.approx(0.1)


def test_the_kept_file_is_whole() -> None:
    _, kept = regress.read(regress.KEPT)
    assert kept["served_over_engine"].value > 0.5
    assert all(0 < one.tolerance < 0.5 for one in kept.values())
