"""The glyph atlas, the renderer and the distortions."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import ImageFont

from cpnb.data.distortions import augment, camera, jpeg, light, noise, normalise
from cpnb.data.glyphs import ATLAS, BACKGROUND, SPLITS, Atlas, load_atlas, render

PINS = ATLAS.with_name("fonts.txt")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_atlas_is_plain_arrays_below_4_megabytes():
    assert ATLAS.stat().st_size < 4e6
    with np.load(ATLAS, allow_pickle=False) as arrays:
        assert "".join(arrays["characters"]) == (
            "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        )
        assert arrays["masks"].shape == (len(arrays["family"]), 62, 32, 32)
        assert arrays["masks"].any(axis=(2, 3)).all(), "a glyph is blank"
        assert len(set(arrays["families"])) == len(arrays["families"]) >= 150
        assert set(arrays["family"]) == set(range(len(arrays["families"])))


def test_no_family_draws_two_digits_alike():
    """A font without digits shows one box for all of them; none of those got in."""
    with np.load(ATLAS, allow_pickle=False) as arrays:
        digits = torch.from_numpy(arrays["masks"][:, :10]).flatten(2).float()
    distance = torch.cdist(digits, digits, p=1) / 32**2 + 255 * torch.eye(10)
    assert distance.min() > 3  # grey levels of 255; the closest are a condensed 0 and 8


@pytest.fixture(scope="module")
def builder():
    """The script data/build_glyphs.py as a module."""
    spec = importlib.util.spec_from_file_location(
        "build_glyphs", ATLAS.with_name("build_glyphs.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_builder_draws_a_font_to_scale(builder):
    masks, metrics = builder.draw_style(ImageFont.load_default(160))  # Pillow's own font
    place = builder.CHARACTERS.index
    assert masks.shape == (62, 32, 32) and len(np.unique(masks)) <= builder.LEVELS
    tall = metrics[place("H")]
    assert tall[0] == pytest.approx(32 / 28) and tall[2] == pytest.approx(0.5, abs=0.02)
    assert metrics[place("p"), 2] < metrics[place("o"), 2] < metrics[place("b"), 2]
    assert metrics[place("W"), 3] > 2 * metrics[place("i"), 3]


def test_builder_refuses_a_font_without_a_character(builder, monkeypatch):
    monkeypatch.setattr(builder, "CHARACTERS", "A\u4e00")
    with pytest.raises(ValueError, match="no glyph for '\u4e00'"):
        builder.draw_style(ImageFont.load_default(160))


def test_builder_names_families_that_are_not_there(builder, tmp_path):
    pins = [("fontpkg-none", "1.0", "OFL-1.1", "train"), ("fontpkg-nil", "2.0", "OFL-1.1", "test")]
    with pytest.raises(ValueError, match="fontpkg-none.*fontpkg-nil"):
        builder.build(tmp_path, pins)


def test_pins_are_read_with_licence_and_split(builder):
    pins = builder.read_pins(PINS)
    assert len(pins) == len({package for package, *_ in pins}) >= 150
    assert {split for *_, split in pins} == set(SPLITS)


def test_font_families_are_disjoint_between_splits_and_pinned_with_a_licence():
    families = {split: set(load_atlas(split).families) for split in SPLITS}
    assert not families["train"] & families["validation"]
    assert not families["train"] & families["test"]
    assert not families["validation"] & families["test"]
    lines = [line.split() for line in PINS.read_text().splitlines() if not line.startswith("#")]
    assert {licence for _, _, licence, _ in lines} <= {"OFL-1.1", "Apache-2.0"}
    for split in SPLITS:
        pinned = {requirement.split("==")[0] for requirement, *_, s in lines if s == split}
        shown = {"fontpkg-" + name.lower().replace(" ", "-") for name in families[split]}
        assert pinned == shown


def test_related_families_share_a_split():
    split_of = {name: split for split in SPLITS for name in load_atlas(split).families}
    for relatives in (
        ["Roboto", "Roboto Slab", "Heebo"],
        ["Source Sans 3", "Source Code Pro", "Assistant"],
        ["Noto Sans", "Open Sans"],
        ["Titillium Web", "Cairo"],
    ):
        assert len({split_of[name] for name in relatives}) == 1, relatives


def test_a_missing_atlas_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="build_glyphs.py"):
        Atlas("train", tmp_path / "none.npz")


@pytest.mark.parametrize("split", SPLITS)
def test_patches_are_normalised_and_labelled(split):
    images, labels = render(600, split, seed=3)
    assert images.shape == (600, 1, 24, 24) and images.dtype == torch.float32
    assert labels.dtype == torch.int64 and set(labels.tolist()) == set(range(36))
    assert images.mean((1, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(images.square().mean((1, 2, 3)), torch.ones(600))


def test_rendering_is_a_function_of_seed_and_split():
    images, labels = render(64, seed=5)
    again, same = render(64, seed=5)
    assert torch.equal(images, again) and torch.equal(labels, same)
    assert not torch.equal(images, render(64, seed=6)[0])
    assert not torch.equal(images, render(64, "test", seed=5)[0])


def test_a_smaller_size_is_the_start_of_a_larger_one():
    few, _ = render(10, seed=1)
    many, _ = render(300, seed=1)
    assert torch.equal(few, many[:10])


def test_labels_tell_the_letter_drawn():
    """Nearest class mean, learned on training fonts, reads other fonts far above chance (1/36)."""
    images, labels = render(4_000, lowercase=0.0)
    means = torch.stack([images[labels == k].abs().mean(0).flatten() for k in range(36)])
    means = means - means.mean(1, keepdim=True)
    unseen, truth = render(1_000, "test", lowercase=0.0)
    unseen = unseen.abs().flatten(1)
    guess = ((unseen - unseen.mean(1, keepdim=True)) @ means.T / means.norm(dim=1)).argmax(1)
    assert (guess == truth).float().mean() > 0.15


def test_background_fraction():
    _, labels = render(2_000, background=0.25)
    share = (labels == BACKGROUND).float().mean().item()
    assert 0.2 < share < 0.3
    assert (render(50)[1] != BACKGROUND).all()
    assert (render(50, background=1.0)[1] == BACKGROUND).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: got 0"),
        ({"size": 2.5}, "size: got 2.5"),
        ({"size": 5, "background": 1.5}, "background: got 1.5"),
        ({"size": 5, "lowercase": -1}, "lowercase: got -1"),
        ({"size": 5, "split": "tset"}, "split: got 'tset'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        render(**options)


def test_normalise_keeps_flat_patches_finite():
    patches = torch.stack([torch.full((1, 24, 24), 7.0), torch.rand(1, 24, 24)])
    result = normalise(patches)
    assert result[0].eq(0).all()
    assert abs(result[1].std(correction=0).item() - 1) < 1e-5


@pytest.mark.parametrize("distortion", [camera, light, noise, jpeg])
def test_distortions_are_seeded_and_leave_their_input(distortion):
    patches, _ = render(32)
    kept = patches.clone()
    first = distortion(patches, seeded(1))
    assert torch.equal(first, distortion(patches, seeded(1)))
    assert not torch.equal(first, distortion(patches, seeded(2)))
    assert torch.equal(patches, kept) and first.shape == patches.shape


def test_camera_keeps_constant_patches_and_removes_detail():
    flat = torch.full((50, 1, 24, 24), 3.0)
    torch.testing.assert_close(camera(flat, seeded()), flat)
    detail = torch.randn(50, 1, 24, 24, generator=seeded())
    assert camera(detail, seeded(), sharp=0.0).std() < 0.7 * detail.std()


def test_augment_is_seeded_normalised_and_keeps_its_input():
    batch, _ = render(64)
    kept = batch.clone()
    result = augment(batch, seeded(4))
    assert torch.equal(result, augment(batch, seeded(4)))
    assert not torch.equal(result, augment(batch, seeded(5)))
    assert torch.equal(batch, kept)
    assert result.mean((1, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(result.square().mean((1, 2, 3)), torch.ones(64))


def test_augment_without_any_strength_is_the_identity():
    batch, _ = render(16)
    still = {"rotation": 0.0, "shear": 0.0, "scale": 0.0, "shift": 0.0, "invert": 0.0}
    result = augment(batch, seeded(), strength=0.0, **still)
    torch.testing.assert_close(result, batch, atol=1e-4, rtol=1e-4)
    inverted = augment(batch, seeded(), strength=0.0, **(still | {"invert": 1.0}))
    torch.testing.assert_close(inverted, -batch, atol=1e-4, rtol=1e-4)


def test_augment_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"batch: got shape \(2, 24, 24\)"):
        augment(torch.zeros(2, 24, 24), seeded())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_augment_runs_where_the_generator_lives():
    batch = render(16)[0].cuda()
    result = augment(batch, torch.Generator("cuda").manual_seed(0))
    assert result.is_cuda and torch.isfinite(result).all()
    assert augment(batch, seeded()).is_cuda
