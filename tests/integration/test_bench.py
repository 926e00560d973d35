"""The benchmark runs and prints its table; what it measures is for a quiet machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.table import lines
from tests.support.cli import CHECKOUT

pytestmark = pytest.mark.slow


def test_a_short_run_prints_the_table_and_keeps_it(tmp_path: Path) -> None:
    kept = tmp_path / "results.md"
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.bench",
            "--quick",
            "--processes",
            "1",
            "--only",
            "show,import3,append",
            "--write",
            str(kept),
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    for figure in (
        "show, 16 clients: /s",
        "import of staged data to 3 stores: MiB/s",
        "append beside plain inserts: x",
    ):
        assert f"| {figure} |" in ran.stdout
    assert kept.read_text().startswith("`ops/bench/run --quick")
    assert ran.stdout.strip() in kept.read_text()


def test_ratios_are_taken_pair_by_pair_and_held_to_the_budget() -> None:
    figures = {
        "show, 16 clients: /s": {"peer": [10.0, 100.0, 20.0], "ours": [90.0, 700.0, 200.0]},
        "stage and import to 1 store: s": {"peer": [8.0], "ours": [4.0]},
        "peak memory of our processes: MiB": {"ours": [120.0]},
    }
    rows = lines(figures, "ours", "peer")
    assert rows[2] == "| show, 16 clients: /s | 20.00 | 200 | 9.00 | 8 x | yes |"
    assert rows[3].endswith("| 0.50 | 0.25 x | **no** |")
    assert rows[4].endswith("| – | 120 | – | at most 200 | yes |")
