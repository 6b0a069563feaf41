"""YAML as people mean it: version 1.2's rules, and no key twice.

PyYAML follows version 1.1, in which 010 is 8, 1:30 is 90, `no` is False and 1e-3 is text; and of a
key that stands twice the last value wins without a word.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

# The core schema of YAML 1.2, chapter 10.3: tag, what is read as it, and how that may begin.
CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),  # of version 1.1, and in wide use
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        lines = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise ValueError(f"{key.value!r} stands twice, in line {lines[name]} and {line}")
            lines[name] = line
        return node


def _integer(loader, node) -> int:
    text = loader.construct_scalar(node)
    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


for _tag, _pattern, _first in CORE:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_yaml(path):
    """Content of a YAML file: None, numbers, booleans, text, lists and dicts.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it is not YAML, or a mapping has a key twice; the message names the file and the lines.
    """
    path = Path(path).expanduser()
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
