"""The wheel in an empty folder: what a checkout has beside the package has travelled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USE = """
import cpnb
from cpnb.study import tables
net, test = cpnb.load_charnet(), cpnb.load_dataset("characters", "test", size=72)
small = cpnb.decompose(net, {"conv3": 8}, n_iter_max=3)
assert small(test.images).shape == (72, 37)
assert cpnb.accuracy(net, test) > 0.7
print(cpnb.__file__, len(cpnb.recorded()), tables.finetuning().data.shape)
"""


def run(command, folder, **variables):
    """A command as a user runs it who has no checkout: no path of this one is handed over."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CPNB_RESULTS")}
    return subprocess.run(
        command, cwd=folder, env=environment | variables, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder that the wheel is unpacked into; hatchling comes with the tests' requirements."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    made = run([*pip, "wheel", str(ROOT), *offline], folder)
    assert made.returncode == 0, made.stderr
    (wheel,) = folder.glob("cpnb-*.whl")
    assert wheel.stat().st_size < 20e6
    put = run([*pip, "install", "--no-deps", "--no-index", "--target", "site", str(wheel)], folder)
    assert put.returncode == 0, put.stderr
    return folder / "site"


def test_the_wheel_decomposes_charnet_and_shows_records(site, tmp_path):
    used = run([sys.executable, "-c", USE], tmp_path, PYTHONPATH=str(site))
    assert used.returncode == 0, used.stderr
    file, count, *shape = used.stdout.split(maxsplit=2)
    assert Path(file) == site / "cpnb" / "__init__.py"
    assert int(count) > 1000 and "(0," not in shape[0]


def test_the_wheels_command_line_reports_and_refuses_to_publish(site, tmp_path):
    told = run([sys.executable, "-m", "cpnb", "report"], tmp_path, PYTHONPATH=str(site))
    assert told.returncode == 0 and "| CharNet, the baseline | 91.0%" in told.stdout
    told = run([sys.executable, "-m", "cpnb", "publish"], tmp_path, PYTHONPATH=str(site))
    assert told.returncode == 2 and "of a checkout" in told.stderr


def test_licences_travel_with_the_fonts_masks(site):
    shipped = site / "cpnb" / "shipped" / "data"
    assert {path.name for path in (shipped / "licences").iterdir()} == {
        path.name for path in (ROOT / "data" / "licences").iterdir()
    }
    assert not (shipped / "downloads").exists()
