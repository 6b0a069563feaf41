"""Where things lie: the checkout, and what ships with the package."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def checkout() -> Path | None:
    """Root of the checkout that this code runs from; None if the package is installed."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() else None


def repository() -> Path:
    """Root of the project: the checkout, or the current folder if cpnb is installed.

    An installed copy of cpnb lies in a package folder, which is no place for results.
    """
    return checkout() or Path.cwd()


def shipped(name: str) -> Path:
    """A file that ships, such as "data/charnet.safetensors".

    It stands at that path in a checkout; in an installed package, where the wheel has put it.
    """
    return (checkout() or PACKAGE / "shipped") / name


def data_folder() -> Path:
    """Where data sets lie: the environment variable CPNB_DATA, else ``data/downloads``."""
    given = os.environ.get("CPNB_DATA")
    return Path(given).expanduser() if given else repository() / "data" / "downloads"
