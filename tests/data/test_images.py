"""CIFAR-10 and ImageNet folders: layouts, splits, and what is said when classes are missing."""

import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from cpnb.data.characters import load_dataset
from cpnb.data.images import CIFAR10, flip_and_crop

DATA = os.environ.get("CPNB_DATA", "")


def save_image(path, colour, size=(32, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def cifar(tmp_path):
    """A miniature: the red value of an image tells its class, the green one its number."""
    for part, copies in (("train", 20), ("test", 2)):
        for label, name in enumerate(CIFAR10):
            for number in range(copies):
                colour = (10 * label, 5 * number, 0)
                save_image(tmp_path / "cifar10" / part / name / f"{number:04d}.png", colour)
    return tmp_path


def zipped(root):
    for part in ("train", "test"):
        with zipfile.ZipFile(root / "cifar10" / f"{part}.zip", "w") as file:
            for path in sorted((root / "cifar10" / part).rglob("*.png")):
                file.write(path, path.relative_to(root / "cifar10"))
                path.unlink()
    return root


@pytest.mark.parametrize("pack", [lambda root: root, zipped], ids=["folders", "archives"])
def test_cifar10_splits(cifar, pack):
    root = pack(cifar)
    train, validation, test = (
        load_dataset("cifar10", split, root) for split in ("train", "validation", "test")
    )
    assert [len(part) for part in (train, validation, test)] == [180, 20, 20]
    image, label = train[0]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32 and type(label) is int
    assert train.classes == list(CIFAR10)
    red = (validation.images[:, 0, 0, 0] * 0.2470 + 0.4914) * 255
    torch.testing.assert_close(red, 10.0 * validation.labels, atol=1e-3, rtol=0)
    green = ((validation.images[:, 1, 0, 0] * 0.2435 + 0.4822) * 255 / 5).round().int()
    assert set(green.tolist()) == {9, 19}  # every tenth of each class
    inside = load_dataset("cifar10", "test", root / "cifar10")
    assert torch.equal(inside.images, test.images)


def test_cifar10_sample(cifar):
    few = load_dataset("cifar10", "train", cifar, size=7, seed=1)
    assert torch.equal(few.images, load_dataset("cifar10", "train", cifar, size=7, seed=1).images)
    assert len(few.sample(3)) == 3
    with pytest.raises(ValueError, match=r"size: got 21, accepted is an integer from 1 to 20"):
        load_dataset("cifar10", "test", cifar, size=21)


def test_cifar10_missing_and_unknown_classes(cifar):
    for name in ("cat", "ship"):
        for path in (cifar / "cifar10" / "test" / name).iterdir():
            path.unlink()
    with pytest.raises(ValueError, match="has no images of 2 of 10 classes: cat, ship"):
        load_dataset("cifar10", "test", cifar)
    save_image(cifar / "cifar10" / "train" / "boat" / "0.png", 0)
    with pytest.raises(
        ValueError, match=r"1 folder\(s\) that are no class: boat; the classes are a"
    ):
        load_dataset("cifar10", "train", cifar)


def test_cifar10_unreadable_and_ill_sized_images_are_named(cifar):
    folder = cifar / "cifar10" / "test" / "dog"
    (folder / "0000.png").write_bytes(b"no image")
    save_image(folder / "0001.png", 0, (30, 32))
    save_image(folder / "0002.png", 0)
    with pytest.warns(UserWarning, match=r"2 unreadable .* 19 kept: .*0000.png.*30×32 pixels"):
        assert len(load_dataset("cifar10", "test", cifar)) == 19


def test_absent_data_say_where_they_were_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10 not found: looked for .*train.zip"):
        load_dataset("cifar10", "train", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"ImageNet not found: looked for wnids.txt and val"
    ):
        load_dataset("imagenet-sample", "test", tmp_path)


@pytest.fixture
def imagenet(tmp_path):
    home = tmp_path / "imagenet-sample"
    home.mkdir()
    (home / "wnids.txt").write_text("n3 tench\nn1 goldfish\n\nn2 shark\n")
    save_image(home / "val" / "n2" / "a.JPEG", (255, 0, 0), (400, 300))
    save_image(home / "val" / "n1" / "b.JPEG", (0, 255, 0), (50, 90))
    return tmp_path


def test_imagenet_labels_are_in_the_order_of_the_file(imagenet):
    data = load_dataset("imagenet-sample", "test", imagenet)
    assert data.classes == ["n3", "n1", "n2"] and data.labels.tolist() == [1, 2]
    image, label = data[1]
    assert image.shape == (3, 224, 224) and image.dtype == torch.float32 and label == 2
    expected = (torch.tensor([1.0, 0, 0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(image[:, 100, 100], expected, atol=0.03, rtol=0)
    assert len(data.sample(1)) == 1


def test_imagenet_crop_is_torchvisions(tmp_path):
    from torchvision.transforms import v2

    from cpnb.data.images import _middle

    for size in ((301, 400), (640, 200), (256, 256)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])
        assert np.array_equal(_middle(image), transform(image).permute(1, 2, 0).numpy())


def test_imagenet_classes(imagenet):
    with pytest.raises(ValueError, match="has no images of 1 of 3 classes: n3"):
        load_dataset("imagenet-sample", "test", imagenet, complete=True)
    save_image(imagenet / "imagenet-sample" / "val" / "n9" / "c.JPEG", 0)
    with pytest.raises(ValueError, match="no class: n9; the classes are n3, n1, n2"):
        load_dataset("imagenet-sample", "test", imagenet)


def test_an_unreadable_imagenet_file_is_named(imagenet):
    data = load_dataset("imagenet-sample", "validation", imagenet)
    data.paths[0].write_bytes(b"no image")
    with pytest.raises(OSError, match=r"b\.JPEG cannot be read as an image"):
        data[0]


def test_flip_and_crop_moves_whole_images():
    images = torch.rand(64, 3, 8, 8) + 1  # no zeros inside
    moved = flip_and_crop(images, torch.Generator().manual_seed(0), pad=2)
    assert moved.shape == images.shape
    padded = torch.nn.functional.pad(images, [2] * 4)
    mirrored = 0
    for before, after in zip(padded, moved, strict=True):
        ways = {
            (top, left, flip): part.flip(2) if flip else part
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            for part in [before[:, top : top + 8, left : left + 8]]
        }
        (way,) = [way for way, part in ways.items() if torch.equal(part, after)]
        mirrored += way[2]
    assert 16 < mirrored < 48
    again = flip_and_crop(images, torch.Generator().manual_seed(0), pad=2)
    assert torch.equal(again, moved)


@pytest.mark.skipif(not os.path.isdir(f"{DATA}/imagenet-sample"), reason="needs CPNB_DATA")
def test_the_real_sample():
    data = load_dataset("imagenet-sample", "test", DATA)
    assert len(data) == 488 and len(data.classes) == 1000
    assert len(set(data.labels.tolist())) == 488
