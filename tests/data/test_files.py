"""Image files are read as they are seen, counted by their endings; broken ones are named."""

import io
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from cpnb.data.characters import hash_split, load_dataset
from cpnb.data.glyphs import Atlas
from cpnb.data.images import CIFAR10, CIFAR10_MEAN, CIFAR10_STD

SPLITS = ("train", "validation", "test")
WEB_PAGE = b"<!DOCTYPE html>\n<html><body>404</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


def encoded(image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def as_character(root, content: bytes, ending=".png"):
    """The (24, 24) patch that a file becomes in the Chars74K layout, alone in its folder."""
    folder = root / "chars74k" / "English" / "Img" / "GoodImg" / "Bmp" / "Sample011"
    folder.mkdir(parents=True)
    (folder / f"img011-00001{ending}").write_bytes(content)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Chars74K is incomplete")
        split = hash_split(f"img011-00001{ending}")
        (patch,) = load_dataset("chars74k", split, root, which="good").images[:, 0]
    return patch


def as_photograph(root, content: bytes, ending=".png"):
    """The (3, 32, 32) colours, 0 to 255, that a file becomes in CIFAR-10's layout."""
    for name in CIFAR10:
        folder = root / "cifar10" / "test" / name
        folder.mkdir(parents=True)
        (folder / f"0{ending}").write_bytes(content)
    image = load_dataset("cifar10", "test", root).images[0]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CIFAR10_MEAN, CIFAR10_STD))
    return (image * std + mean) * 255


def ramp(levels=np.uint8) -> np.ndarray:
    """A (32, 32) picture without symmetry that uses all grey values of a type."""
    values = np.linspace(0, np.iinfo(levels).max, 32 * 32).reshape(32, 32)
    return values.astype(levels)


def same(a, b, tolerance) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize("read", [as_character, as_photograph])
def test_greys_of_16_bits(tmp_path, read):
    deep = read(tmp_path / "deep", encoded(Image.fromarray(ramp(np.uint16))))
    plain = read(tmp_path / "plain", encoded(Image.fromarray(ramp())))
    same(deep, plain, 1.01 if read is as_photograph else 0.02)
    assert len(deep.unique()) > 200


def letter() -> np.ndarray:
    """The opacity of a bar of ink, (32, 32), with a soft edge."""
    opacity = np.zeros((32, 32), np.uint8)
    opacity[4:28, 8:12], opacity[4:28, 12] = 255, 128
    return opacity


def transparent_inks(ink: int) -> dict:
    """Files of the same ink on transparent ground, and what they look like."""
    opacity, flat = letter(), np.full((32, 32), ink, np.uint8)
    hard = np.where(opacity == 255, 255, 0).astype(np.uint8)
    soft = Image.fromarray(opacity)
    grey = Image.fromarray(flat)
    indexed = Image.fromarray((hard // 255).astype(np.uint8)).convert("P")
    indexed.putpalette([ink] * 6)
    deep = np.where(hard == 255, 257 * ink, 1000).astype(np.uint16)
    keyed = np.where(hard == 255, ink, 77).astype(np.uint8)
    return {
        "LA": (encoded(Image.merge("LA", [grey, soft])), opacity),
        "RGBA": (encoded(Image.merge("RGBA", [grey] * 3 + [soft])), opacity),
        "P": (encoded(indexed, transparency=0), hard),
        "L": (encoded(Image.fromarray(keyed), transparency=77), hard),
        "RGB": (encoded(Image.fromarray(keyed).convert("RGB"), transparency=(77,) * 3), hard),
        "I;16": (encoded(Image.fromarray(deep), transparency=1000), hard),
    }


@pytest.mark.parametrize("mode", transparent_inks(0))
@pytest.mark.parametrize(("ink", "ground"), [(0, 255), (255, 0), (60, 255), (200, 0)])
@pytest.mark.parametrize("read", [as_character, as_photograph])
def test_ink_on_transparent_ground(tmp_path, read, mode, ink, ground):
    """Dark ink as if on white paper, light ink as if on a blackboard."""
    content, opacity = transparent_inks(ink)[mode]
    seen = ground + (ink - ground) * (opacity / 255)
    expected = read(tmp_path / "plain", encoded(Image.fromarray(seen.round().astype(np.uint8))))
    found = read(tmp_path / "transparent", content)
    assert found.std() > 0.5
    same(found, expected, 1.01 if read is as_photograph else 0.02)


def test_opaque_images_with_an_alpha_channel_stay_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    plain = Image.fromarray(pixels)
    for read in (as_character, as_photograph):
        found = [read(tmp_path / f"{read.__name__}-{image.mode}", encoded(image))
                 for image in (plain, plain.convert("RGBA"))]  # fmt: skip
        assert torch.equal(*found)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("read", [as_character, as_photograph])
def test_the_orientation_of_a_camera(tmp_path, read, orientation):
    turns = [
        None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM",
        "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270",
    ]  # fmt: skip  # how a camera that is held so stores an upright scene
    upright = Image.fromarray(ramp())
    turn = turns[orientation - 1]
    stored = upright.transpose(Image.Transpose[turn]) if turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    same(
        read(tmp_path / "turned", encoded(stored, exif=exif)),
        read(tmp_path / "upright", encoded(upright)),
        0.0,
    )


def test_a_damaged_orientation_is_no_orientation(tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abcd"  # text for a number
    image = Image.fromarray(ramp())
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        damaged = as_photograph(tmp_path / "a", encoded(image, "JPEG", exif=exif), ".jpg")
    same(damaged, as_photograph(tmp_path / "b", encoded(image, "JPEG"), ".jpg"), 0.0)


@pytest.mark.parametrize("kind", ["CMYK", "one bit", "palette", "GIF", "animated PNG"])
@pytest.mark.parametrize("read", [as_character, as_photograph])
def test_other_ways_to_store_the_same_picture(tmp_path, read, kind):
    pixels = np.full((32, 32), 255, np.uint8)
    pixels[4:28, 8:12] = 0
    image = Image.fromarray(pixels)
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - pixels)]}
    content, ending = {
        "CMYK": (encoded(image.convert("RGB").convert("CMYK"), "JPEG", quality=100), ".jpg"),
        "one bit": (encoded(image.convert("1")), ".png"),
        "palette": (encoded(image.convert("RGB").convert("P")), ".png"),
        "GIF": (encoded(image, "GIF", **frames), ".gif"),
        "animated PNG": (encoded(image, **frames), ".png"),
    }[kind]
    expected = read(tmp_path / "plain", encoded(image))
    same(read(tmp_path / "other", content, ending), expected, 6 if read is as_photograph else 0.1)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_a_pixel_are_refused(tmp_path, mode):
    values = Image.fromarray(ramp().astype(np.int32 if mode == "I" else np.float32))
    with pytest.raises(OSError, match="none of the 10 images .*pixels of 32 bits"):
        as_photograph(tmp_path, encoded(values, "TIFF"), ".tif")


@pytest.mark.parametrize("ending", [".PNG", ".JPG", ".Jpeg", ".BMP", ".webp", ".TIFF"])
def test_endings_count_in_either_case_for_every_data_set(tmp_path, ending):
    kind = {".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".tiff": "TIFF"}.get(
        ending.lower(), "JPEG"
    )
    content = encoded(Image.fromarray(ramp()), kind)
    as_character(tmp_path, content, ending)
    as_photograph(tmp_path, content, ending)
    with zipfile.ZipFile(tmp_path / "cifar10" / "train.zip", "w") as file:
        for name in CIFAR10:
            file.writestr(f"train/{name}/0{ending}", content)
    assert len(load_dataset("cifar10", "train", tmp_path)) == 10
    home = tmp_path / "imagenet-sample"
    (home / "val" / "n1").mkdir(parents=True)
    (home / "wnids.txt").write_text("n1\n")
    (home / "val" / "n1" / f"a{ending}").write_bytes(content)
    assert load_dataset("imagenet-sample", "test", tmp_path)[0][0].shape == (3, 224, 224)


def test_the_split_of_a_file_does_not_hang_on_capitals():
    for number in range(50):
        name = f"img018-{number:05d}.png"
        assert hash_split(name.upper()) == hash_split(name)


def test_what_a_system_hides_beside_an_image_is_none(tmp_path):
    """macOS writes ._0.png beside 0.png; counted, it would move images between splits, too."""
    as_photograph(tmp_path, encoded(Image.fromarray(ramp())))
    for name in CIFAR10:
        (tmp_path / "cifar10" / "test" / name / "._0.png").write_bytes(b"\0\5\x16\7")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_dataset("cifar10", "test", tmp_path)) == 10


# Broken files


def archive(contents: dict) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name, content in contents.items():
            zipped.writestr(name, content)
    return file.getvalue()


def whole_archive() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    picture = encoded(Image.fromarray(noise))
    return archive({f"test/{name}/{n}.png": picture for name in CIFAR10 for n in range(2)})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (WEB_PAGE, "begins with b'<!DOCTYPE html.*: a web page"),
        (b"  <html>", "a web page"),
        (POINTER, "the pointer to a file that Git LFS has not fetched"),
        (b"", "it is empty"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (None, "a zip archive, cut short"),
        (b"\x89HDF", "begins with b'.x89HDF'"),
    ],
)
def test_an_archive_that_is_none_is_told_with_path_and_kind(tmp_path, content, told):
    path = tmp_path / "cifar10" / "test.zip"
    path.parent.mkdir()
    path.write_bytes(whole_archive()[:1000] if content is None else content)
    with pytest.raises(OSError, match=f"test.zip is no whole zip archive .*{told}") as error:
        load_dataset("cifar10", "test", tmp_path)
    assert str(path) in str(error.value)


def test_broken_members_of_an_archive_are_left_out_and_counted(tmp_path):
    path = tmp_path / "test.zip"
    content = whole_archive()
    at = content.index(b"test/airplane/1.png") + 100  # within that picture
    path.write_bytes(content[:at] + b"\0" * 50 + content[at + 50 :])
    with pytest.warns(UserWarning, match="1 unreadable images left out, 19 kept: .*1.png"):
        assert len(load_dataset("cifar10", "test", tmp_path)) == 19


def test_an_archive_of_broken_images_alone_is_an_error(tmp_path):
    (tmp_path / "test.zip").write_bytes(archive({f"test/{n}/0.png": WEB_PAGE for n in CIFAR10}))
    with pytest.raises(OSError, match="none of the 10 images in .*test.zip can be read"):
        load_dataset("cifar10", "test", tmp_path)


def test_an_encrypted_archive_says_so(tmp_path):
    content = bytearray(whole_archive())
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(start)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(start, at + 1)
    (tmp_path / "test.zip").write_bytes(content)
    with pytest.raises(OSError, match="none of the 20 images .*encrypted"):
        load_dataset("cifar10", "test", tmp_path)


def test_torchvisions_files_that_are_incomplete_are_told_with_the_folder(tmp_path):
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(WEB_PAGE)
    with pytest.raises(OSError, match="cifar-10-batches-py is incomplete or broken") as error:
        load_dataset("cifar10", "test", tmp_path)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("content", [WEB_PAGE, b"", b"\0\0\x08\x03\0\0\0\x05"])
def test_emnist_files_that_are_broken_are_told_with_their_kind(tmp_path, content):
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "test"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"emnist-byclass-{part}-{kind}-ubyte").write_bytes(content)
    with pytest.raises(OSError, match="EMNIST's files are broken or cut short") as error:
        load_dataset("emnist", "test", tmp_path)
    assert str(raw / "emnist-byclass-test-images-idx3-ubyte") in str(error.value)
    assert ("it is empty" if not content else "it begins with") in str(error.value)


@pytest.fixture
def imagenet(tmp_path):
    home = tmp_path / "imagenet-sample"
    (home / "val" / "n1").mkdir(parents=True)
    (home / "wnids.txt").write_text("n1 tench\nn2 shark\n")
    for number in range(4):
        Image.new("RGB", (50, 40)).save(home / "val" / "n1" / f"{number}.JPEG")
    return home


def test_imagenet_files_that_are_no_images_are_left_out_and_counted(imagenet):
    folder = imagenet / "val" / "n1"
    (folder / "1.JPEG").write_bytes(WEB_PAGE)
    (folder / "2.JPEG").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 unreadable images left out, 2 kept: .*1.JPEG"):
        data = load_dataset("imagenet-sample", "test", imagenet.parent)
    assert [path.name for path in data.paths] == ["0.JPEG", "3.JPEG"]
    assert data[1][1] == 0 and len(data.labels) == 2
    for path in data.paths:
        path.write_bytes(WEB_PAGE)
    with pytest.raises(OSError, match="none of the 4 images in .*val can be read"):
        load_dataset("imagenet-sample", "test", imagenet.parent)


def test_a_class_that_stands_twice_in_imagenets_list(imagenet):
    (imagenet / "wnids.txt").write_text("n1 tench\nn2 shark\nn1 tench\n")
    with pytest.raises(ValueError, match="wnids.txt: class n1 stands twice, as 0 and as 2"):
        load_dataset("imagenet-sample", "test", imagenet.parent)


@pytest.mark.parametrize("content", [POINTER, b"", WEB_PAGE])
def test_a_glyph_atlas_that_is_none_is_told_with_its_kind(tmp_path, content):
    path = tmp_path / "glyphs.npz"
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"glyphs.npz is no glyph atlas .*: it (is|begins)") as error:
        Atlas("test", path)
    assert str(path) in str(error.value)


# Paths and sizes


def test_home_as_root_and_in_the_environment(tmp_path, monkeypatch):
    as_photograph(tmp_path / "data", encoded(Image.fromarray(ramp())))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CPNB_DATA", raising=False)
    assert len(load_dataset("cifar10", "test", "~/data")) == 10
    monkeypatch.setenv("CPNB_DATA", "~/data")
    assert len(load_dataset("cifar10", "test")) == 10
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "data" / "EMNIST")):
        load_dataset("emnist", "test")


@pytest.mark.parametrize("number", [np.int64, np.int32, np.uint8, torch.tensor])
def test_sizes_and_seeds_of_numpy(tmp_path, number):
    as_photograph(tmp_path, encoded(Image.fromarray(ramp())))
    for name in ("characters", "cifar10"):
        few = load_dataset(name, "test", tmp_path, size=number(5), seed=number(3))
        assert torch.equal(few.images, load_dataset(name, "test", tmp_path, size=5, seed=3).images)
        again = few.sample(number(2), seed=number(1))
        assert torch.equal(again.labels, few.sample(2, seed=1).labels)


@pytest.mark.parametrize("size", [0, -1, True, 5.0, np.float64(5), "5", 11, np.int64(11)])
def test_other_sizes_are_refused(tmp_path, size):
    as_photograph(tmp_path, encoded(Image.fromarray(ramp())))
    with pytest.raises(ValueError, match="size: got .* accepted is an integer from 1 to 10"):
        load_dataset("cifar10", "test", tmp_path, size=size)
    if size not in (11, 5.0):
        with pytest.raises(ValueError, match="size: got .* accepted is an integer of at least 1"):
            load_dataset("characters", "test", size=size)
