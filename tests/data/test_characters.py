"""load_dataset: the three data sets, their splits, and what it says when files are missing."""

import os
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from cpnb.data.characters import (
    CLASSES,
    CharacterDataset,
    concatenate,
    contact_sheet,
    hash_split,
    load_dataset,
)
from cpnb.runs.places import repository

SPLITS = ("train", "validation", "test")


def label_of(sample):
    """The class of folder SampleNNN, written out: digits, capitals, small letters."""
    names = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return CLASSES.index(names[sample - 1])


def make_chars74k(root, samples, copies=12, parts=("GoodImg", "BadImag")):
    """Write a miniature tree; the brightness of each image's top left tells its class."""
    random = np.random.default_rng(0)
    for part in parts:
        for sample in samples:
            folder = root / "English" / "Img" / part / "Bmp" / f"Sample{sample:03d}"
            folder.mkdir(parents=True)
            for number in range(1, copies + 1):
                shape = (random.integers(20, 60), random.integers(10, 60), 3)
                pixels = random.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"img{sample:03d}-{number:05d}.png")
    return root


def load_all(root, **options):
    return concatenate(*(load_dataset("chars74k", split, root, **options) for split in SPLITS))


# --- characters ---------------------------------------------------------------------------------


def test_characters_items_and_defaults():
    dataset = load_dataset("characters", "validation")
    assert len(dataset) == 2_000
    image, label = dataset[3]
    assert image.shape == (1, 24, 24) and image.dtype == torch.float32 and type(label) is int
    assert dataset.classes == list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert dataset.good.all()


def test_characters_options_reach_the_renderer():
    first = load_dataset("characters", "train", size=50, seed=1, background=0.5)
    same = load_dataset("characters", "train", size=50, seed=1, background=0.5)
    other = load_dataset("characters", "train", size=50, seed=2, background=0.5)
    assert torch.equal(first.images, same.images) and torch.equal(first.labels, same.labels)
    assert not torch.equal(first.images, other.images)
    assert (first.labels == 36).any()


# --- the data set class -------------------------------------------------------------------------


def test_sample_subset_concatenate():
    dataset = load_dataset("characters", "test", size=40)
    few = dataset.sample(10, seed=3)
    assert torch.equal(few.images, dataset.sample(10, seed=3).images)
    assert not torch.equal(few.images, dataset.sample(10, seed=4).images)
    assert len({tuple(image.flatten()[:20].tolist()) for image in few.images}) == 10
    part = dataset.subset(dataset.labels < 10)
    assert (part.labels < 10).all() and len(part) == (dataset.labels < 10).sum()
    assert len(concatenate(dataset, few)) == 50
    with pytest.raises(ValueError, match="size: got 41, accepted is an integer from 1 to 40"):
        dataset.sample(41)


def test_contact_sheet_puts_each_class_in_its_column():
    images = torch.arange(1, 5).float().view(4, 1, 1, 1).expand(4, 1, 24, 24)
    dataset = CharacterDataset(images, torch.tensor([0, 2, 2, 35]))
    sheet = contact_sheet(dataset, rows=2)
    assert sheet.shape == (48, 36 * 24)
    cells = sheet.view(2, 24, 36, 24)[:, 0, :, 0]
    assert cells[0, [0, 1, 2, 35]].tolist() == [1, 0, 2, 4]
    assert cells[1, [0, 2, 35]].tolist() == [0, 3, 0]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("mnist", "train"), {}, ValueError, "name: got 'mnist', known .* characters, chars74k"),
        (("characters", "val"), {}, ValueError, "split: got 'val', accepted are train, validation"),
        (("characters", "train"), {"sise": 5}, TypeError, "sise .* accepted are size, seed, back"),
        (("chars74k", "train"), {"which": "ugly"}, ValueError, "which: got 'ugly', accepted are"),
    ],
)
def test_bad_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        load_dataset(*arguments, **options)


# --- chars74k -----------------------------------------------------------------------------------


def test_hash_split_is_fixed_for_ever():
    """Changing the hash would silently mix test images into training: these names pin it."""
    expected = ["train", "train", "test", "validation", "test", *["train"] * 4, "validation"]
    assert [hash_split(f"img018-{number:05d}.png") for number in range(70, 80)] == expected
    assert hash_split("/anywhere/img018-00073.png") == hash_split("img018-00073.png")


def test_hash_split_shares():
    splits = [hash_split(f"img{s:03d}-{n:05d}.png") for s in range(1, 37) for n in range(1, 301)]
    shares = [splits.count(split) / len(splits) for split in SPLITS]
    assert np.allclose(shares, [0.7, 0.1, 0.2], atol=0.015)


@pytest.mark.parametrize("folders", [36, 62])
def test_layouts_fold_to_36_classes(tmp_path, folders):
    make_chars74k(tmp_path, range(1, folders + 1), copies=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load_all(tmp_path)
    expected = np.bincount([label_of(sample) for sample in range(1, folders + 1)], minlength=36)
    assert torch.bincount(dataset.labels).tolist() == (expected * 4 * 2).tolist()
    assert dataset.images.shape[1:] == (1, 24, 24)
    torch.testing.assert_close(dataset.images.square().mean((1, 2, 3)), torch.ones(len(dataset)))
    assert int(dataset.good.sum()) * 2 == len(dataset)


def test_which_and_root_and_environment(tmp_path, monkeypatch):
    make_chars74k(tmp_path / "chars74k", range(1, 37))
    good = load_dataset("chars74k", "train", tmp_path, which="good")
    bad = load_dataset("chars74k", "train", tmp_path / "chars74k", which="bad")
    monkeypatch.setenv("CPNB_DATA", str(tmp_path))
    both = load_dataset("chars74k", "train")
    assert good.good.all() and not bad.good.any()
    assert torch.equal(both.images[both.good], good.images)
    assert torch.equal(both.images[~both.good], bad.images)
    assert len(load_dataset("chars74k", "train", size=7, seed=1)) == 7


def test_each_file_lands_in_the_split_of_its_name(tmp_path):
    make_chars74k(tmp_path, range(1, 37), copies=2, parts=("GoodImg",))
    names = [f"img{s:03d}-{n:05d}.png" for s in range(1, 37) for n in (1, 2)]
    for split in SPLITS:
        expected = [int(n[3:6]) - 1 for n in names if hash_split(n) == split]
        dataset = load_dataset("chars74k", split, tmp_path, which="good")
        assert dataset.labels.tolist() == expected


def test_narrow_images_keep_their_proportions(tmp_path):
    """A 40x10 bar on a lighter ground stays narrow: replicated edges, no squeeze to a block."""
    pixels = np.full((40, 10), 200, dtype=np.uint8)
    pixels[:, 3:7] = 20
    name = next(n for n in (f"img019-{k:05d}.png" for k in range(99)) if hash_split(n) == "train")
    make_chars74k(tmp_path, range(1, 37), copies=1, parts=("GoodImg",))
    folder = tmp_path / "English" / "Img" / "GoodImg" / "Bmp" / "Sample019"
    for old in folder.iterdir():
        old.unlink()
    Image.fromarray(pixels).save(folder / name)
    dataset = load_dataset("chars74k", "train", tmp_path, which="good")
    (bar,) = dataset.images[dataset.labels == 18]
    assert (bar[0, 12] < 0).sum() in (2, 3, 4)
    assert (bar[0, :, :8] > 0).all() and (bar[0, :, 16:] > 0).all()


def test_unreadable_images_are_named_and_the_rest_goes_on(tmp_path):
    make_chars74k(tmp_path, range(1, 37))
    whole = load_all(tmp_path)
    bitmaps = tmp_path / "English" / "Img" / "GoodImg" / "Bmp"
    names = [n for n in (f"img002-{k:05d}.png" for k in range(1, 13)) if hash_split(n) == "train"]
    truncated, foreign, empty = (bitmaps / "Sample002" / name for name in names[:3])
    truncated.write_bytes(truncated.read_bytes()[:200])
    foreign.write_text("<html>not found</html>")
    empty.write_bytes(b"")
    with pytest.warns(UserWarning, match="3 unreadable images left out") as caught:
        dataset = load_all(tmp_path)
    (message,) = (str(w.message) for w in caught)
    assert all(path.name in message for path in (truncated, foreign, empty))
    assert len(dataset) == len(whole) - 3


def test_many_unreadable_images_are_counted_not_listed(tmp_path):
    make_chars74k(tmp_path, range(1, 37))
    for path in (tmp_path / "English" / "Img" / "BadImag").rglob("*.png"):
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.warns(
        UserWarning, match="unreadable images left out, .* and [0-9]+ more"
    ) as caught:
        assert load_dataset("chars74k", "train", tmp_path).good.all()
    assert len(str(caught[0].message)) < 2_000


@pytest.mark.parametrize("folders", [36, 62])
def test_missing_folders_are_named_and_the_rest_goes_on(tmp_path, folders):
    samples = sorted(set(range(1, folders + 1)) - {5, 21, 40})
    make_chars74k(tmp_path, samples, parts=("GoodImg",))
    with pytest.warns(UserWarning, match="incomplete") as caught:
        dataset = load_dataset("chars74k", "train", tmp_path, which="good")
    message = str(caught[0].message)
    assert "4 (Sample005)" in message and "K (Sample021)" in message
    assert ("d (Sample040)" in message) == (folders == 62)
    assert not (dataset.labels == 4).any()


def test_a_missing_part_is_a_warning(tmp_path):
    make_chars74k(tmp_path, range(1, 37), parts=("GoodImg",))
    with pytest.warns(UserWarning, match="incomplete: no images in .*BadImag"):
        assert load_dataset("chars74k", "train", tmp_path).good.all()


def test_a_missing_root_says_where_it_looked_and_what_to_set(tmp_path, monkeypatch):
    monkeypatch.delenv("CPNB_DATA", raising=False)
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("chars74k", "train", tmp_path / "nowhere")
    message = str(caught.value)
    assert str(tmp_path / "nowhere" / "English" / "Img") in message
    assert str(tmp_path / "nowhere" / "chars74k" / "English" / "Img") in message
    assert "CPNB_DATA" in message and "root=" in message


def test_an_empty_tree_is_an_error(tmp_path):
    (tmp_path / "English" / "Img").mkdir(parents=True)
    with (
        pytest.warns(UserWarning, match="incomplete"),
        pytest.raises(FileNotFoundError, match="no readable image of split 'train'"),
    ):
        load_dataset("chars74k", "train", tmp_path)


@pytest.mark.skipif(
    not os.path.isdir(os.path.join(os.environ.get("CPNB_DATA", ""), "chars74k")),
    reason="needs Chars74K under CPNB_DATA",
)
def test_the_real_chars74k():
    parts = [load_dataset("chars74k", split) for split in SPLITS]
    total = sum(map(len, parts))
    assert total > 7_000
    assert np.allclose([len(part) / total for part in parts], [0.7, 0.1, 0.2], atol=0.02)
    for part in parts:
        assert set(part.labels.tolist()) == set(range(36))
        torch.testing.assert_close(part.images.square().mean((1, 2, 3)), torch.ones(len(part)))


# --- emnist -------------------------------------------------------------------------------------


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def emnist_root(tmp_path):
    """A miniature EMNIST: every class a few times; upright, each image is a bar at the top."""
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, copies in (("train", 10), ("test", 1)):
        labels = np.tile(np.arange(62), copies)
        images = np.zeros((len(labels), 28, 28), dtype=np.uint8)
        images[:, 5:23, 2:6] = 255  # stored transposed: a bar at the left is one at the top
        write_idx(raw / f"emnist-byclass-{part}-images-idx3-ubyte", images)
        write_idx(raw / f"emnist-byclass-{part}-labels-idx1-ubyte", labels)
    return tmp_path


def test_emnist_splits_folding_and_orientation(emnist_root):
    parts = [load_dataset("emnist", split, emnist_root) for split in SPLITS]
    assert [len(part) for part in parts] == [558, 62, 62]
    assert torch.bincount(parts[2].labels).tolist() == [1] * 10 + [2] * 26
    image = parts[2].images[0, 0]
    assert image.shape == (24, 24)
    assert (image[:4, 3:21] > 0).all() and (image[4:] < 0).all()
    torch.testing.assert_close(parts[0].images.square().mean((1, 2, 3)), torch.ones(558))


def test_emnist_sample_is_seeded(emnist_root):
    first = load_dataset("emnist", "train", emnist_root, size=20, seed=1)
    assert len(first) == 20
    assert torch.equal(
        first.labels, load_dataset("emnist", "train", emnist_root, size=20, seed=1).labels
    )


def test_emnist_absent_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="EMNIST not found.*download=True"):
        load_dataset("emnist", "train", tmp_path)


def test_the_listed_test_files_are_those_that_the_names_hash_to():
    """`data/chars74k-test.txt`, by which another copy of Chars74K is compared with ours."""
    names = (repository() / "data" / "chars74k-test.txt").read_text().split()
    assert len(names) == len(set(names)) == 1510
    assert {hash_split(name.rpartition("/")[2]) for name in names} == {"test"}
    assert sum(name.startswith("GoodImg/") for name in names) == 956
