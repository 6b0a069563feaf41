"""Building and loading the C++ kernel."""

import pytest
import torch
from fusing import LAYERS, assert_same, needs_compiler

from cpnb.inference.fused import native
from cpnb.inference.fused.chain import Chain


def fresh(monkeypatch, folder, compiler=None):
    monkeypatch.setenv("CPNB_CACHE", str(folder))
    if compiler:
        monkeypatch.setattr(native, "_compiler", lambda: compiler)
    return native.library.__wrapped__()


@needs_compiler
def test_the_kernel_is_built_once(monkeypatch, tmp_path):
    fresh(monkeypatch, tmp_path / "new")
    (built,) = (tmp_path / "new").iterdir()
    stamp = built.stat().st_mtime_ns
    fresh(monkeypatch, tmp_path / "new")
    assert [built.stat().st_mtime_ns] == [p.stat().st_mtime_ns for p in built.parent.iterdir()]
    assert built.stat().st_mtime_ns == stamp


def test_no_compiler_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(native.KernelUnavailable, match="no C.. compiler"):
        fresh(monkeypatch, tmp_path)


@pytest.mark.parametrize("given", [None, "~/kernels"])
def test_no_home_is_told(monkeypatch, given):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CPNB_CACHE", raising=False)
    if given:
        monkeypatch.setenv("CPNB_CACHE", given)

    def nowhere(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(native.Path, "home", nowhere)
    monkeypatch.setattr(native.Path, "expanduser", nowhere)
    with pytest.raises(native.KernelUnavailable, match="set CPNB_CACHE"):
        native.cache_folder()


def test_a_compiler_that_fails_is_told(monkeypatch, tmp_path):
    with pytest.raises(native.KernelUnavailable, match="false does not build the kernel"):
        fresh(monkeypatch, tmp_path, "false")


# Of other processors too: what is wider than the machine's own vectors is taken apart by GCC.


WIDTHS = {
    4: ["-U__AVX512F__", "-U__AVX__"],
    8: ["-U__AVX512F__", "-D__AVX__"],
    16: ["-D__AVX512F__"],
}


@needs_compiler
@pytest.mark.parametrize("lanes", WIDTHS)
def test_vectors_of_every_width(monkeypatch, tmp_path, lanes):
    monkeypatch.setattr(native, "FLAGS", [*native.FLAGS, "-O1", *WIDTHS[lanes]])
    library = fresh(monkeypatch, tmp_path)
    monkeypatch.setattr(native, "library", lambda: library)
    assert library.cpnb_lanes() == lanes
    for make in LAYERS.values():
        layers = make()
        x = torch.randn(2, Chain(layers).in_channels, 19, 27)
        assert_same("compiled", layers, x)
