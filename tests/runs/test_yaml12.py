"""Parameters files mean what they show: decimal numbers, words as text."""

import math

import pytest
from small_notebooks import write

from cpnb.runs import sweep


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("+12", 12), ("-7", -7), ("0x1F", 31), ("0o17", 15), ("1_000", "1_000"),
        ("1:30", "1:30"), ("1:30.5", "1:30.5"), ("2015-05-07", "2015-05-07"), ("0b11", "0b11"),
        ("1e-3", 1e-3), ("1E5", 1e5), ("-.5", -0.5), ("5.", 5.0), ("6.02e+23", 6.02e23),
        ("1.5.2", "1.5.2"), (".inf", math.inf), ("-.inf", -math.inf),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("'010'", "010"), ('"true"', "true"), ("[010, no]", [10, "no"]), ("=", "="),
    ],
)  # fmt: skip
def test_values(tmp_path, text, value):
    path = write(tmp_path / "n.ipynb", parameters="value = None")
    file = tmp_path / "p.yaml"
    file.write_text(f"n:\n  value: {text}\n")
    (found,) = sweep.load_parameters(file, [path])["n"].values()
    assert found == value and type(found) is type(value)


def test_a_word_for_a_switch_and_a_clock_for_a_number_are_errors(tmp_path):
    path = write(tmp_path / "n.ipynb")
    file = tmp_path / "p.yaml"
    for text, message in (("verbose: yes", "verbose='yes'"), ("rank: 1:30", "rank='1:30'")):
        file.write_text(f"n: {{{text}}}")
        with pytest.raises(TypeError, match=message):
            sweep.load_parameters(file, [path])


def test_anchors_and_merges_work_and_what_a_mapping_says_itself_counts(tmp_path):
    paths = [write(tmp_path / f"{name}.ipynb") for name in "abc"]
    file = tmp_path / "p.yaml"
    file.write_text(
        "a: &a {rank: 1, lr: 0.5}\nb: &b {<<: *a, rank: 2}\nc: {<<: *b, method: als, rank: 3}\n"
    )
    assert sweep.load_parameters(file, paths) == {
        "a": {"rank": 1, "lr": 0.5},
        "b": {"rank": 2, "lr": 0.5},
        "c": {"rank": 3, "lr": 0.5, "method": "als"},
    }


@pytest.mark.parametrize("content", [b"", b"# nothing yet\n"])
def test_an_empty_file_asks_for_nothing(tmp_path, content):
    (tmp_path / "p.yaml").write_bytes(content)
    assert sweep.load_parameters(tmp_path / "p.yaml") == {}


@pytest.mark.parametrize("content", [b"0", b"false", b"''", b"\xff\xfe", b"a: !!int x"])
def test_what_is_no_mapping_is_told_with_the_file(tmp_path, content):
    (tmp_path / "p.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"p\.yaml"):
        sweep.load_parameters(tmp_path / "p.yaml")
