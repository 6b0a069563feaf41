"""What holds for every test: results go to a temporary folder, seeds and threads are fixed."""

import os
import random
import shutil
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")


def pytest_configure(config):
    """Set before any test module is imported, and seen by the kernels that tests start."""
    config.results_folder = tempfile.mkdtemp(prefix="cpnb-test-results-")
    os.environ["CPNB_RESULTS"] = config.results_folder
    os.environ["CPNB_REMEMBER"] = "0"  # each test measures for itself
    # Kernels work in other folders; they too shall test this checkout, installed or not.
    paths = [str(config.rootpath), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if not torch.cuda.is_available():  # read when Triton is imported
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if hasattr(config, "workerinput"):  # one process a core: threads would wait for each other
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    else:
        torch.set_num_threads(min(2, os.cpu_count() or 1))


LONGEST = ("test_notebooks.py", "test_networks.py", "test_assignments.py", "test_hostile.py")


def pytest_collection_modifyitems(items):
    """The files that take minutes first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_unconfigure(config):
    shutil.rmtree(config.results_folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def short_measurements(monkeypatch):
    """For tests of what `optimize_for_inference` returns, not of how fast it is."""
    monkeypatch.setattr("cpnb.inference.fused.choice.SECONDS", 0.01)
