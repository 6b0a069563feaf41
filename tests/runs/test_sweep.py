"""Parameters checked before a kernel starts; runs whole, resumed or kept as far as they got."""

import json
import os
import pickle
import sys

import nbformat
import numpy as np
import pytest
from small_notebooks import printed, write

from cpnb.runs import grids, keys, notebooks, pool, sweep


@pytest.fixture
def notebook(tmp_path):
    return write(tmp_path / "03_x.ipynb", "print(rank * 2, method)")


@pytest.fixture(autouse=True)
def _same_code(monkeypatch):
    """An edit of cpnb while the tests run is no reason for a run to be repeated."""
    monkeypatch.setattr(keys, "_code_and_data", lambda _code: [])


@pytest.fixture
def no_kernel(monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(notebooks, "execute", refuse)
    monkeypatch.setattr(pool, "start", refuse)


# Parameters


def test_parameters_are_read_without_running(notebook, no_kernel):
    assert sweep.notebook_parameters(notebook) == {
        "rank": 4, "lr": 0.1, "method": "nls", "ranks": [1, 2], "verbose": False, "limit": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "found 0"),
        ("rank = 2 ** 3", "not a literal"),
        ("rank = other", "not a literal"),
        ("a = b = 1", "not `name = literal`"),
        ("import os", "not `name = literal`"),
        ("rank: int", "not a literal"),
        ("rank = 1\nrank = 2", "assigned twice"),
        ("%matplotlib inline", "not plain Python"),
    ],
)
def test_a_parameters_cell_holds_literals_only(tmp_path, source, message):
    with pytest.raises(ValueError, match=message):
        sweep.notebook_parameters(write(tmp_path / "n.ipynb", parameters=source))


def test_an_unknown_parameter_is_named_with_the_known_ones(notebook, no_kernel, tmp_path):
    with pytest.raises(sweep.UnknownParameterError) as error:
        sweep.run_notebook(notebook, tmp_path / "out.ipynb", {"rnak": 3})
    for part in ("03_x.ipynb", "'rnak'", "did you mean 'rank'?", "rank=4", "method='nls'"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        {"rank": "4"}, {"rank": 4.0}, {"rank": True}, {"rank": None}, {"lr": "0.1"}, {"lr": False},
        {"method": 3}, {"ranks": 3}, {"ranks": [1, "2"]}, {"ranks": "12"}, {"verbose": 1},
    ],
)  # fmt: skip
def test_a_mistyped_value_is_an_error(notebook, no_kernel, given):
    (name,) = given
    with pytest.raises(TypeError, match=f"{name}=.*accepted is .*default"):
        sweep.check_parameters(notebook, given)


def test_fitting_values_are_accepted(notebook):
    given = {"rank": np.int64(8), "lr": 1, "ranks": (3,), "limit": "anything", "verbose": True}
    assert sweep.check_parameters(notebook, given) == {
        "rank": 8, "lr": 1, "ranks": [3], "limit": "anything", "verbose": True,
    }  # fmt: skip


def test_an_annotation_may_allow_none(tmp_path):
    path = write(tmp_path / "n.ipynb", parameters="bound: float | None = 10.0\nn: int = 1")
    assert sweep.check_parameters(path, {"bound": None}) == {"bound": None}
    with pytest.raises(TypeError, match="float or None"):
        sweep.check_parameters(path, {"bound": "x"})
    with pytest.raises(TypeError, match="n=None"):
        sweep.check_parameters(path, {"n": None})


def test_a_dict_takes_other_names_but_no_other_types(tmp_path):
    path = write(tmp_path / "n.ipynb", parameters='ranks = {"conv2": 64}')
    assert sweep.check_parameters(path, {"ranks": {"conv3": 16}}) == {"ranks": {"conv3": 16}}
    with pytest.raises(TypeError):
        sweep.check_parameters(path, {"ranks": {"conv3": "16"}})


# One run


def test_a_run_has_its_parameters_folder_and_interpreter(tmp_path, monkeypatch):
    """The user's own kernel named python3 must not be taken for the running interpreter's."""
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["no-such-interpreter", "-f", "{connection_file}"], "display_name": "foreign"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    code = "import os, sys\nprint(rank, sys.prefix)\nprint(os.getcwd())"
    path = write(tmp_path / "n {1}.ipynb", code)
    before = os.getcwd()
    run = sweep.run_notebook(path, tmp_path / "out" / "n {1}.ipynb", {"rank": 16}, progress=False)
    assert printed(run.output).splitlines() == [f"16 {sys.prefix}", str(tmp_path)]
    assert os.getcwd() == before
    assert [p.name for p in run.output.parent.iterdir()] == ["n {1}.ipynb"]
    assert nbformat.read(run.output, 4).metadata.cpnb.parameters == {"rank": 16}


def test_a_finished_run_is_not_repeated_until_something_changes(notebook, tmp_path, monkeypatch):
    output = tmp_path / "out.ipynb"

    def run(**options):
        return sweep.run_notebook(notebook, output, {"rank": 5}, progress=False, **options)

    assert run().skipped is False
    assert run().skipped is True
    assert run(force=True).skipped is False
    write(notebook, "print(rank * 3, method)")
    assert run().skipped is False and printed(output) == "15 nls\n"
    output.write_text(output.read_text()[:100])  # as a crash of another program might leave it
    assert run().skipped is False


def test_a_failed_run_is_kept_and_names_cell_and_exception(tmp_path):
    path = write(tmp_path / "n.ipynb", "print('first')", "raise KeyError('conv9')", "print('last')")
    output = tmp_path / "out" / "n.ipynb"
    with pytest.raises(sweep.NotebookError) as error:
        sweep.run_notebook(path, output, progress=False)
    for part in ("n.ipynb", "In [3]", "raise KeyError", "conv9", "n.failed.ipynb"):
        assert part in str(error.value)
    assert [p.name for p in output.parent.iterdir()] == ["n.failed.ipynb"]
    assert printed(output.parent / "n.failed.ipynb") == "first\n"
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    write(path, "print('mended')")
    sweep.run_notebook(path, output, progress=False)
    assert [p.name for p in output.parent.iterdir()] == ["n.ipynb"]


def test_a_dead_kernel_is_told_with_its_cell(tmp_path):
    path = write(tmp_path / "n.ipynb", "print('first')", "import os\nos._exit(9)")
    with pytest.raises(sweep.NotebookError, match=r"cell \(import os\): DeadKernelError"):
        sweep.run_notebook(path, tmp_path / "out.ipynb", progress=False)
    assert (tmp_path / "out.failed.ipynb").exists()


def test_a_run_does_not_overwrite_its_notebook(notebook):
    with pytest.raises(ValueError, match="the notebook itself"):
        sweep.run_notebook(notebook, notebook)


def test_in_place_keeps_outputs_and_strips_the_run(tmp_path):
    bars = (
        "from tqdm import tqdm\nfor _ in tqdm(range(3), desc='epochs'): pass\nprint('done')",
        "from tqdm.auto import tqdm as auto\nfor _ in auto(range(3)): pass",
        # In two messages, as a slow machine sends one text.
        "import sys, time\nprint('a ', end='', file=sys.stderr, flush=True)\ntime.sleep(0.5)\n"
        "print('warning', file=sys.stderr)",
    )
    path = write(tmp_path / "n.ipynb", *bars)
    sweep.run_in_place(path, progress=False)
    notebook = nbformat.read(path, as_version=4)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert [set(cell.metadata) for cell in notebook.cells] == [set(), {"tags"}, set(), set(), set()]
    outputs = [cell.outputs for cell in notebook.cells[2:]]
    assert [[out.name for out in cell] for cell in outputs] == [["stdout"], [], ["stderr"]]
    first = path.read_bytes()
    sweep.run_in_place(path, progress=False)
    assert path.read_bytes() == first


def test_in_place_leaves_a_failing_notebook_as_it_was(tmp_path):
    path = write(tmp_path / "n.ipynb", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(sweep.NotebookError, match="ZeroDivisionError"):
        sweep.run_in_place(path, progress=False)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# Grids


def test_a_grid_runs_every_combination(notebook, tmp_path):
    grid = {"rank": [1, 2], "method": ["nls", "als"]}
    runs = sweep.run_grid(notebook, grid, tmp_path / "out", parameters={"lr": 1.0})
    assert [run.output.name for run in runs] == [
        "03_x__rank=1__lr=1.0.ipynb", "03_x__rank=1__lr=1.0__method=als.ipynb",
        "03_x__rank=2__lr=1.0.ipynb", "03_x__rank=2__lr=1.0__method=als.ipynb",
    ]  # fmt: skip
    assert [printed(run.output) for run in runs] == ["2 nls\n", "2 als\n", "4 nls\n", "4 als\n"]
    assert runs[0].parameters == {"lr": 1.0, "rank": 1, "method": "nls"}
    again = sweep.run_grid(notebook, grid, tmp_path / "out", parameters={"lr": 1.0})
    assert all(run.skipped for run in again)


def test_one_failing_point_does_not_stop_the_others(tmp_path):
    path = write(tmp_path / "n.ipynb", "print(1 / (rank - 1))")
    with pytest.raises(sweep.GridError) as error:
        sweep.run_grid(path, {"rank": [0, 1, 2]}, tmp_path / "out", jobs=2)
    assert "1 of 3 points failed" in str(error.value) and "{'rank': 1}" in str(error.value)
    assert "ZeroDivisionError" in error.value.failures[0][1]
    assert [run and printed(run.output) for run in error.value.runs] == ["-1.0\n", None, "1.0\n"]


def test_a_notebook_may_run_a_grid(notebook, tmp_path):
    code = (
        "from cpnb.runs.sweep import run_grid\n"
        f"runs = run_grid({str(notebook)!r}, {{'rank': [1, 2]}}, {str(tmp_path / 'inner')!r})\n"
        "print([run.parameters for run in runs])"
    )
    run = sweep.run_notebook(write(tmp_path / "outer.ipynb", code), tmp_path / "out.ipynb")
    assert printed(run.output) == "[{'rank': 1}, {'rank': 2}]\n"


@pytest.mark.parametrize(
    "grid",
    [
        {"rank": []},
        {"rank": 3},
        {"rank": [1, 1]},
        {"rank": [1, "x"]},
        {"nope": [1]},
        [{"rank": 1}, {"rank": 1}],
        {"lr": [0.5]},
    ],
)
def test_a_bad_grid_runs_nothing(notebook, no_kernel, tmp_path, grid):
    with pytest.raises((ValueError, TypeError)):
        sweep.run_grid(notebook, grid, tmp_path / "out", parameters={"lr": 0.2})


def test_names_of_points_are_safe_and_distinct():
    def name(value):
        return grids.point_name("n", {"ranks": value}, {"ranks": []})

    assert name("nls") == "n__ranks=nls.ipynb"
    odd = [name(value) for value in ("a/b", "a b", {"a": "b"}, [1, 2], [12], "x" * 300)]
    assert len(set(odd)) == 6
    assert all("/" not in text and " " not in text and len(text) < 140 for text in odd)


# Parameter files and the command line


def test_a_parameters_file_is_checked_as_a_whole(notebook, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("03_x: {lr: 1e-3, rank: 8}\n")
    assert sweep.load_parameters(file, [notebook]) == {"03_x": {"lr": 0.001, "rank": 8}}
    for text, error in [
        ("04_y: {}", "no notebook '04_y'; there are 03_x"),
        ("03_x: {rnak: 1}", "did you mean 'rank'"),
        ("03_x: {rank: abc}", "rank='abc'"),
        ("- a", "expected"),
        ("03_x: {", "not YAML"),
    ]:
        file.write_text(text)
        with pytest.raises((ValueError, TypeError), match=error) as caught:
            sweep.load_parameters(file, [notebook])
        assert str(file) in str(caught.value)


def test_command_line_runs_resumes_and_reports(notebook, tmp_path, capsys):
    failing = write(tmp_path / "04_y.ipynb", "1 / 0")
    file = tmp_path / "p.yaml"
    file.write_text("03_x: {rank: 8}\n")
    out = ["-p", "method", "als", "--out", str(tmp_path / "o")]
    assert sweep.main([str(failing), str(notebook), "--parameters", str(file), *out]) == 1
    captured = capsys.readouterr()
    assert "04_y.ipynb, cell In [3] (1 / 0): ZeroDivisionError" in captured.err
    assert "03_x__rank=8__method=als.ipynb" in captured.out
    output = tmp_path / "o" / "03_x__rank=8__method=als.ipynb"
    assert printed(output) == "16 als\n"
    assert sweep.main([str(notebook), "-p", "rank", "8", *out]) == 0
    assert "finished before" in capsys.readouterr().out


def test_command_line_runs_a_grid(notebook, tmp_path):
    out = str(tmp_path / "o")
    assert sweep.main([str(notebook), "--grid", "rank=1,2", "method=als", "--out", out]) == 0
    names = sorted(file.name for file in (tmp_path / "o").glob("*.ipynb"))
    assert names == ["03_x__rank=1__method=als.ipynb", "03_x__rank=2__method=als.ipynb"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "rnak", "3"], "did you mean 'rank'"),
        (["-p", "rank", "three"], "rank='three'"),
        (["-p", "verbose", "1"], "verbose=1"),
        (["--grid", "rank"], "expected name=value"),
        (["--grid", "rank=1,x"], "rank='x'"),
        (["--parameters", "no-such.yaml"], "no-such.yaml"),
        (["no-such.ipynb"], "no such notebook: no-such.ipynb"),
        (["--in-place", "-p", "rank", "3"], "takes no parameters"),
        (["--grid", "rank="], "grid['rank']=[]"),
        (["--grid", "rank=4-1"], "grid['rank']=[]"),
        (["-p", "rank"], "expected -p NAME VALUE"),
        (["--jobs", "0"], "'0'; accepted is a number from 1"),
        (["--retry", "-1"], "accepted is a number from 0"),
        (["--timeout", "soon"], "'soon' is no time; accepted are 90s, 20m, 1h30m"),
        (["--timeout", "0"], "'0' is no time"),
        (["--memory", "much"], "'much' is no size; accepted are 500M, 2G"),
        (["--points", "no-such.csv"], "no-such.csv"),
        (["--status", "o"], "take a folder alone"),
    ],
)
def test_command_line_errors_precede_any_kernel(notebook, no_kernel, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        sweep.main([str(notebook), *arguments])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_words_of_the_command_line_become_values():
    assert grids.value_of("true", False) is True and grids.value_of("None", 1.0) is None
    assert grids.value_of("2015", "text") == "2015"
    assert grids.values_of("[1,2],[3]", [1]) == [[1, 2], [3]]
    assert grids.values_of("nls, als", "nls") == ["nls", "als"]
    assert grids.values_of("0-2,7", 0) == [0, 1, 2, 7]
    assert grids.values_of("1-2", "text") == ["1-2"] and grids.values_of("", 0) == []
