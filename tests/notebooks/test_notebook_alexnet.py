"""Notebook 07's way to ImageNet: a folder of images and a weights file, as its parameters say."""

import importlib.util
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

import cpnb
from cpnb.runs.sweep import run_notebook
from cpnb.study.alexnet_claims import on_imagenet

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "07_alexnet.ipynb"
CLASSES = ["n3", "n1", "n2"]
TINY = {
    "ranks": [2], "methods": ["greedy"], "n_iter_max": 1, "ranks_timed": [2], "batches": [1],
    "seconds": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Parameters: noise images of three classes, and Caffe's AlexNet with random weights."""
    folder = tmp_path_factory.mktemp("imagenet")
    (folder / "wnids.txt").write_text("\n".join(CLASSES))
    noise = np.random.default_rng(0)
    for part, copies in (("train", 2), ("val", 3)):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for number in range(copies):
                pixels = noise.integers(0, 256, (256, 300, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.JPEG")
    torch.manual_seed(0)
    weights = folder / "alexnet.safetensors"
    cpnb.save_weights(cpnb.AlexNet(), weights)
    files = {"weights": str(weights), "root": str(folder), "dataset": "imagenet-sample"}
    return TINY | files | {"epochs": 1, "lr": 1e-4, "test_size": 6, "batch_size": 3}


def test_imagenet_runs_by_the_same_notebook(given, tmp_path, monkeypatch):
    monkeypatch.setenv("CPNB_RESULTS", str(tmp_path))
    run_notebook(NOTEBOOK, tmp_path / "07.ipynb", given, progress=False)
    (row,) = cpnb.recorded(cpnb.results_path(), claim="alexnet-imagenet")
    assert row["layer"] == "net.conv2" and row["test_size"] == 6 and row["epochs"] == 1
    for key in ("dense", "decomposed", "finetuned"):
        assert 0 <= row[f"top1_{key}"] <= row[f"top5_{key}"] <= 1
    # Multiplies a position, per group: 48·128·25 over R (48 + 2·5 + 128).
    assert row["bound"] == pytest.approx(48 * 128 * 25 / (2 * (48 + 10 + 128)))
    assert row["speedup_optimised"] > 0 and 0.9 < row["rel_error"] < 1
    # Parameters read like columns, as in the rows that are older than them.
    assert row["weights"] == given["weights"] and (row["seed"], row["lr"]) == (0, 1e-4)
    assert row["method"] == "nls" and row["rank"] == 2
    told = on_imagenet([row]).here
    assert told.startswith("bounded NLS, R=2: net.conv2") and told.endswith("on 6 images")


def test_the_script_for_several_gpus_does_the_same(given, tmp_path, monkeypatch):
    """In one process here; several are `tests/training/test_together.py`'s."""
    monkeypatch.setenv("CPNB_RESULTS", str(tmp_path))
    path = ROOT / "benchmarks" / "alexnet_imagenet.py"
    spec = importlib.util.spec_from_file_location("alexnet_imagenet", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    words = ["--weights", given["weights"], "--root", given["root"], "--ranks", "2"]
    words += ["--method", "greedy", "--epochs", "1", "--lr", "1e-4", "--batch-size", "3"]
    script.main([*words, "--size", "6", "--checkpoints", str(tmp_path)])
    (row,) = cpnb.recorded(cpnb.results_path(), claim="alexnet-imagenet")
    assert row["layer"] == "net.conv2" and (row["train_size"], row["test_size"]) == (6, 6)
    assert 0 <= row["top1_finetuned"] <= row["top5_finetuned"] <= 1
    assert (tmp_path / "net.conv2-2.safetensors").is_file()


@pytest.fixture(scope="module")
def without_images(tmp_path_factory):
    """Where nobody has images, weights or records: rows of the run, and cells as executed."""
    folder = tmp_path_factory.mktemp("without")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = next(c for c in notebook.cells if "figures.use_style()" in c.source)
    cell.source += "\nfrom cpnb.runs import records\nrecords.published_path = lambda: Path('none')"
    cell.source = f"from pathlib import Path\n{cell.source}"
    nbformat.write(notebook, folder / "07_alexnet.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CPNB_RESULTS", str(folder))
        run_notebook(folder / "07_alexnet.ipynb", folder / "out.ipynb", TINY, progress=False)
        rows = cpnb.recorded(cpnb.results_path(), claim="alexnet-kernel")
    return rows, nbformat.read(folder / "out.ipynb", as_version=4).cells


def test_the_kernels_fits_are_recorded_one_by_one(without_images):
    alone, whole = without_images[0]
    assert (alone["method"], alone["block_diagonal"], alone["rank"]) == ("greedy", False, 2)
    assert (whole["method"], whole["block_diagonal"], whole["rank_per_group"]) == ("nls", True, 2)
    for row in (alone, whole):
        assert row["notebook"] == "07_alexnet" and row["layer"] == "conv2"
        assert row["weights"] is None and row["n_iter_max"] == 1
        assert 0 < row["rel_error"] < 1 and row["degeneracy"] > 0 and row["seconds"] > 0


def test_what_is_not_given_or_not_recorded_is_told(without_images):
    outputs = [output for cell in without_images[1] for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    shown = "".join(output.data["text/plain"] for output in outputs if "data" in output)
    assert shown.count("nothing recorded yet; this records it: ") == 6
    assert "skipped: no images are given" in printed
