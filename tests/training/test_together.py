"""Several processes that train one model, launched as users do, over gloo on loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from cpnb.training.batches import batches

SCRIPT = Path(__file__).with_name("together.py")
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"]
FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr")


def launched(folder: Path, processes: int, stop: int = 0) -> list:
    """What each process came to; nothing of those that stop after an epoch."""
    arguments = [str(SCRIPT), str(folder / "run.safetensors"), str(stop), str(folder / "history")]
    with socket.socket() as free:  # accelerate 1.0 takes no port 0
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = [*LAUNCH, port, "--num_processes", str(processes)]
    command = together if processes > 1 else [sys.executable]
    told = os.environ | {"CPNB_RESULTS": str(folder / "results"), "OMP_NUM_THREADS": "1"}
    told["ACCELERATE_USE_CPU"] = "true"  # gloo; the launcher starts several for GPUs alone
    run = subprocess.run(
        command + arguments, capture_output=True, text=True, timeout=240, env=told, check=False
    )
    assert (run.returncode == 0) == (stop == 0), run.stderr[-3000:]
    if stop:
        return []
    return [json.loads((folder / f"history.{n}").read_text()) for n in range(processes)]


def figures(rows: list[dict]) -> list[float]:
    return [row[name] for row in rows for name in FIGURES]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Three epochs by one process."""
    return launched(tmp_path_factory.mktemp("alone"), 1)[0]


def test_two_processes_train_as_one_with_the_same_batches(alone, tmp_path):
    """71 samples in batches of 32: of the last seven one process has four, the other three."""
    both = launched(tmp_path, 2)
    for one in both:
        # Float32 sums of gradients in another order, over nine steps at lr 0.02.
        assert figures(one["rows"]) == pytest.approx(figures(alone["rows"]), rel=1e-4)
        assert one["weights"] == pytest.approx(alone["weights"], rel=1e-4)
    assert both[0]["weights"] == both[1]["weights"]
    assert [one["told"] for one in both] == [3, 0]  # on_epoch is the first one's
    assert len((tmp_path / "results" / "records.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2)])
def test_a_checkpoint_goes_on_with_another_number_of_processes(alone, tmp_path, before, after):
    launched(tmp_path, before, stop=1)
    again = launched(tmp_path, after)
    assert again[0]["told"] == 2  # of three epochs, one was done
    assert figures(again[0]["rows"]) == pytest.approx(figures(alone["rows"]), rel=1e-4)
    assert again[0]["weights"] == pytest.approx(alone["weights"], rel=1e-4)


class Squares(Dataset):
    """A data set that is asked sample by sample, and remembers for which."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.asked.append(index)
        return torch.full((1, 2, 2), float(index)), index


@pytest.mark.parametrize("shuffle", [False, True])
def test_shares_of_a_data_set_are_its_batches(shuffle):
    whole, halves = Squares(), [Squares(), Squares()]
    one = [labels.tolist() for _, labels in batches(whole, 4, shuffle, seed=3)]
    both = [
        [labels.tolist() for _, labels in batches(half, 4, shuffle, seed=3, part=(rank, 2))]
        for rank, half in enumerate(halves)
    ]
    assert [sorted(a + b) for a, b in zip(*both, strict=True)] == [sorted(batch) for batch in one]
    assert len(halves[0].asked) == len(halves[1].asked) == 5  # only the own share is loaded


def test_a_batch_for_more_processes_than_samples_is_refused():
    with pytest.raises(ValueError, match=r"2 samples for 3 processes; choose another batch_size"):
        list(batches(Squares(), 4, shuffle=True, part=(2, 3)))


def test_processes_without_accelerate_are_told(monkeypatch):
    from cpnb.training import team

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModuleNotFoundError, match=r"cpnb\[accelerate\]"):
        team.team()
