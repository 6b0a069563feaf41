"""What is given twice is an error that names both before anything runs; no last one wins."""

import json

import pytest
from small_notebooks import write

from cpnb.nets.weights import save_weights
from cpnb.runs import grids, pool, records, sweep


@pytest.fixture
def notebook(tmp_path):
    return write(tmp_path / "03_x.ipynb", "print(rank * 2, method)")


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(pool, "start", refuse)


def refusal(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        sweep.main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "both"),
    [
        (["-p", "rank", "1", "-p", "rank", "2"], ["-p rank 1", "-p rank 2"]),
        (["-p", "rank", "1", "-p", "rank", "1"], ["rank is given twice"]),
        (["--grid", "rank=1", "--grid", "rank=2"], ["--grid rank=1", "--grid rank=2"]),
        (["--grid", "rank=1", "rank=2"], ["--grid rank=1", "--grid rank=2"]),
        (["-p", "rank", "1", "--grid", "rank=2,3"], ["-p rank 1", "--grid rank=2,3"]),
        (["--out", "first", "--out", "second"], ["--out", "first", "second"]),
        (["--parameters", "a.yaml", "--parameters", "b.yaml"], ["a.yaml", "b.yaml"]),
        (["--in-place", "--out", "first"], ["takes no parameters, grid or --out"]),
    ],
)
def test_on_the_command_line(notebook, capsys, arguments, both):
    message = refusal(capsys, notebook, *arguments)
    assert all(part in message for part in both)


@pytest.mark.parametrize("option", [["--out", "o"], ["--in-place"], ["--grid", "rank=1,2"]])
def test_two_notebooks_of_one_file_name(tmp_path, capsys, option):
    paths = [tmp_path / folder / "n.ipynb" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        write(path)
    message = refusal(capsys, *paths, *option)
    assert all(str(path) in message for path in paths)
    assert "given twice" in message or "would both be written to" in message


def test_a_point_of_a_grid_and_a_notebook_of_its_name(notebook, tmp_path, capsys):
    other = write(tmp_path / "03_x__rank=1.ipynb")
    assert "would both be written" not in refusal(capsys, notebook, other, "--out", tmp_path)
    message = refusal(capsys, other, notebook, "--grid", "rank=1", "--out", tmp_path)
    assert str(other) in message


def test_the_folder_of_the_notebook_is_no_place_for_its_run(notebook, tmp_path, capsys):
    other = write(tmp_path / "elsewhere.ipynb")
    message = refusal(capsys, other, notebook, "--out", tmp_path)
    assert "is the notebook itself" in message and "--in-place" in message


def test_points_that_look_alike_get_names_of_their_own():
    values = [1, "1", None, "None", True, "true", "a", "A", 1.0, [1], 2]
    names = [grids.point_name("n", {"limit": v}, {"limit": "default"}) for v in values]
    assert len({name.casefold() for name in names}) == len(values)
    assert names[-1] == "n__limit=2.ipynb" and names[0] == "n__limit=1.ipynb"


@pytest.mark.parametrize(
    ("text", "name", "lines"),
    [
        ("03_x: {rank: 1}\n# more\n03_x: {rank: 2}\n", "03_x", ("line 1", "3")),
        ("03_x:\n  rank: 1\n  lr: 0.5\n  rank: 2\n", "rank", ("line 2", "4")),
        ("03_x: {limit: {a: 1,\n b: 2, 'a': 3}}\n", "a", ("line 1", "2")),
    ],
)
def test_in_a_parameters_file(notebook, tmp_path, text, name, lines):
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"{name!r} stands twice") as error:
        sweep.load_parameters(file, [notebook])
    assert all(part in str(error.value) for part in (str(file), *lines))


def test_a_name_in_a_parameters_file_that_two_notebooks_have(tmp_path):
    paths = [tmp_path / folder / "n.ipynb" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        write(path)
        write(path.with_name(f"only_{path.parent.name}.ipynb"))
    file = tmp_path / "p.yaml"
    file.write_text("n: {rank: 1}")
    for given in (paths, [path.with_name(f"only_{path.parent.name}.ipynb") for path in paths]):
        with pytest.raises(ValueError, match="'n' stands for two notebooks") as error:
            sweep.load_parameters(file, given)
        assert all(str(path) in str(error.value) for path in paths)
    others = [paths[0], tmp_path / "b" / "only_b.ipynb"]  # one of them is given: that one is meant
    assert sweep.load_parameters(file, others) == {"n": {"rank": 1}}


def test_keys_that_are_one_as_text(tmp_path):
    with pytest.raises(ValueError, match="'1' stands twice"):
        records.append({"accuracy": {1: 0.5, "1": 0.6}}, tmp_path / "r.jsonl")
    with pytest.raises(ValueError, match="'1' stands twice"):
        save_weights(_net(), tmp_path / "w.safetensors", {"accuracy": {1: 0.5, "1": 0.6}})
    assert not list(tmp_path.iterdir())


def _net():
    from torch import nn

    return nn.Conv2d(1, 1, 1)


def test_a_column_that_a_row_of_records_has_twice(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"rank": 1, "rank": 2}\n{"rank": 3, "in": {"a": 1, "a": 1}}\n{"rank": 4}\n')
    with pytest.warns(UserWarning, match="stands twice") as warned:
        assert records.read(path) == [{"rank": 4}]
    assert len(warned) == 2 and json.dumps(str(path))[1:-1] in str(warned[0].message)
