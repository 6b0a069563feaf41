"""Building and loading the C++ kernel, once for each compiler, processor and version of the source.

The library is built by the system's C++ compiler ($CXX, else c++ or g++) and kept in $CPNB_CACHE,
by default the user's cache folder. It shares PyTorch's OpenMP runtime, which is loaded before it.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch  # noqa: F401  its OpenMP runtime has to be loaded first

SOURCES = [
    Path(__file__).parent / name
    for name in (
        "kernels.cpp",
        "program.h",
        "layer.h",
        "geometry.h",
        "scratch.h",
        "filters.h",
        "arithmetic.h",
    )
]
FLAGS = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp"]


class KernelUnavailable(RuntimeError):
    """The compiled kernel cannot be had on this machine; the message says why."""


class Product(ctypes.Structure):
    """`Product` of arithmetic.h."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("taps", "tap_stride", "depth", "outputs", "group", "activation", "residual"),
        )
    ] + [("weights", ctypes.c_void_p), ("bias", ctypes.c_void_p)]


class Geometry(ctypes.Structure):
    """`Geometry` of geometry.h."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("samples", "height", "width", "channels"),
            *("out_height", "out_width", "out_channels", "groups"),
            *("size_y", "size_x", "stride_y", "stride_x"),
            *("pad_y", "pad_x", "dilation_y", "dilation_x", "rank", "threads"),
            *("in_pixel", "in_row", "in_sample", "out_pixel", "out_row", "out_sample"),
        )
    ]


class Call(ctypes.Structure):
    """`Call` of geometry.h."""

    _fields_ = [
        ("geometry", Geometry),
        ("reduce", ctypes.POINTER(Product)),
        ("vertical", ctypes.c_void_p),
        ("horizontal", ctypes.c_void_p),
        ("chain", ctypes.POINTER(Product)),
        ("links", ctypes.c_int64),
    ]


class Op(ctypes.Structure):
    """`Op` of program.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("kind", "input", "other", "output", "activation")),
        *((name, ctypes.c_void_p) for name in ("scale", "shift")),
        ("call", Call),
    ]


@cache
def library() -> ctypes.CDLL:
    """The loaded kernel, built first where the cache does not hold it.

    Raises
    ------
    KernelUnavailable
        No compiler, or it failed; the next call tries again.
    """
    try:
        loaded = ctypes.CDLL(str(_built()))
    except OSError as error:
        raise KernelUnavailable(f"the compiled kernel cannot be loaded: {error}") from error
    loaded.cpnb_run.argtypes = [ctypes.POINTER(Call), ctypes.c_void_p, ctypes.c_void_p]
    whole = [ctypes.POINTER(Op), ctypes.c_int64, *3 * [ctypes.c_void_p], ctypes.c_int64]
    loaded.cpnb_program.argtypes = whole
    loaded.cpnb_wish_huge_pages.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    return loaded


def cache_folder() -> Path:
    """$CPNB_CACHE, or `cpnb` in the user's cache folder."""
    given = os.environ.get("CPNB_CACHE")
    try:
        if given:
            return Path(given).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpnb"
    except RuntimeError as error:  # a user without a home, as in some containers
        raise KernelUnavailable(f"no folder to build in, set CPNB_CACHE: {error}") from error


def _built() -> Path:
    compiler = _compiler()
    # What the compiler predefines tells its version and, by -march=native, the processor.
    about = _run([compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    parts = [" ".join(FLAGS), about, *(path.read_text() for path in SOURCES)]
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    target = cache_folder() / f"kernels-{name}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / target.name
        _run([compiler, *FLAGS, "-shared", "-fPIC", str(SOURCES[0]), "-o", str(built)])
        os.replace(built, target)  # whole or not at all, also with several processes
    return target


def _compiler() -> str:
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++")):
        found = shutil.which(name)
        if found:
            return found
    raise KernelUnavailable("there is no C++ compiler: none of $CXX, c++ and g++ can be run")


def _run(command: list[str]) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelUnavailable(f"{command[0]} cannot be run: {error}") from error
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"status {run.returncode}"]
        told = next((line for line in lines if "error" in line), lines[-1])
        raise KernelUnavailable(f"{command[0]} does not build the kernel: {told}")
    return run.stdout
