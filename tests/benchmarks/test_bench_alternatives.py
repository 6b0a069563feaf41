"""Where 8-bit sums are cut off, and weights take half of their range."""

import platform
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import bench_alternatives  # noqa: E402


@pytest.mark.parametrize(
    ("machine", "flags", "saturates"),
    [("x86_64", "avx2", True), ("x86_64", "avx512f avx512_vnni", False),
     ("x86_64", "avx2 avx_vnni", False), ("aarch64", "asimd", False)],
)  # fmt: skip
def test_sums_are_cut_off_on_x86_without_instructions_for_int8(
    machine, flags, saturates, monkeypatch
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags : {flags}")
    assert bench_alternatives.saturates() is saturates
