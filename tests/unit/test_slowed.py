"""`benchmarks.slowed` on what is no package."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import slowed
from segserve.errors import CheckFailed


def test_what_is_no_package_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    text, out = tmp_path / "README.md", tmp_path / "slow.mar"
    text.write_text("no package")
    with pytest.raises(CheckFailed, match=r"README\.md cannot be served: .*zip"):
        slowed.main(slowed.SlowedConfig(text, out))
    assert not out.exists()
