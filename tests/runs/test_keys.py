"""A finished run is repeated when something that it depends on has changed, and only then."""

import importlib.metadata
import json
from pathlib import Path

import pytest
from papermill.iorw import load_notebook_node
from small_notebooks import printed, write

from cpnb.runs import keys, machine, modules, notebooks, sweep


@pytest.fixture(autouse=True)
def _same_code(monkeypatch, tmp_path):
    """An edit of cpnb while the tests run is no reason for a run to be repeated."""
    monkeypatch.setattr(keys, "_code_and_data", lambda _code: [])
    monkeypatch.setenv("CPNB_DATA", str(tmp_path / "no-data"))


@pytest.fixture
def quick(monkeypatch):
    """Without a kernel: here it counts whether a run takes place, not what comes out."""
    monkeypatch.setattr(notebooks, "execute", lambda job: load_notebook_node(str(job.path)))


class Again:
    """Runs one notebook again and again; tells whether it did."""

    def __init__(self, path, output, **parameters):
        self.path, self.output, self.parameters = path, output, parameters

    def __call__(self):
        run = sweep.run_notebook(self.path, self.output, self.parameters, progress=False)
        return not run.skipped


def test_data_sets(tmp_path, monkeypatch, quick):
    data, other = tmp_path / "data", tmp_path / "other"
    for folder in (data, other):
        (folder / "chars74k").mkdir(parents=True)
        (folder / "chars74k" / "a.png").write_bytes(b"a")
    path = write(tmp_path / "n.ipynb", "cpnb.load_dataset('chars74k')")
    again = Again(path, tmp_path / "out.ipynb")
    monkeypatch.setenv("CPNB_DATA", str(data))
    assert again() and not again()
    (data / "chars74k" / "b.png").write_bytes(b"b")
    assert again() and not again()
    (data / "chars74k" / "b.png").write_bytes(b"changed")
    assert again() and not again()
    monkeypatch.setenv("CPNB_DATA", str(other))
    assert again() and not again()
    (other / "results.ipynb").write_text("{}")  # what runs leave behind is no data
    (other / ".cache").write_text("")
    assert not again()


def test_files_and_folders_that_parameters_name(tmp_path, quick):
    (tmp_path / "numbers.txt").write_text("1")
    (tmp_path / "folder").mkdir()
    path = write(tmp_path / "n.ipynb", parameters='source = "numbers.txt"\nroots = [[""]]')
    again = Again(path, tmp_path / "out.ipynb", roots=[[str(tmp_path / "folder")]])
    assert again() and not again()
    (tmp_path / "numbers.txt").write_text("12")
    assert again() and not again()
    (tmp_path / "folder" / "b").write_text("4")
    assert again() and not again()


def test_what_a_run_writes_is_no_reason_to_repeat_it(tmp_path):
    """Also where points of a grid write into one folder, or go on from a file that was there."""
    code = (
        "import pathlib, time\n"
        "pathlib.Path(folder).mkdir(exist_ok=True)\n"
        "pathlib.Path(folder, str(rank)).write_text(str(time.time()))\n"
        "pathlib.Path(checkpoint).write_text(str(time.time()))"
    )
    path = write(tmp_path / "n.ipynb", code, parameters='rank = 1\nfolder = "f"\ncheckpoint = "c"')
    (tmp_path / "c").write_text("from before")
    for finished in (False, True):
        runs = sweep.run_grid(path, {"rank": [1, 2]}, tmp_path / "out", progress=False)
        assert [run.skipped for run in runs] == [finished] * 2


def test_modules_beside_the_notebook(tmp_path, quick):
    (tmp_path / "helper.py").write_text("from tools.deep import value\n")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "deep.py").write_text("value = 1\n")
    (tmp_path / "unused.py").write_text("value = 1\n")
    path = write(tmp_path / "n.ipynb", "import helper\nprint(helper.value)")
    again = Again(path, tmp_path / "out.ipynb")
    assert again() and not again()
    (tmp_path / "unused.py").write_text("value = 22\n")
    assert not again()
    (tmp_path / "tools" / "deep.py").write_text("value = 333\n")
    assert again() and not again()
    (tmp_path / "helper.py").write_text("value = 4444\n")
    assert again() and not again()


def test_notebooks_that_the_code_names(tmp_path, quick):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "inner.ipynb", "from deeper import x")
    (tmp_path / "sub" / "deeper.py").write_text("x = 1")
    path = write(tmp_path / "n.ipynb", "inner = 'sub/inner.ipynb'")
    again = Again(path, tmp_path / "out.ipynb")
    assert again() and not again()
    (tmp_path / "sub" / "deeper.py").write_text("x = 22")
    assert again() and not again()
    write(tmp_path / "sub" / "inner.ipynb", "print('changed')")
    assert again() and not again()
    (tmp_path / "sub" / "inner.ipynb").write_text("{")  # broken: not this run's fault
    assert again() and not again()


def key(path, **parameters):
    return keys.inputs(path, parameters).key()


def test_cpnb_itself_python_and_cpp_and_the_data_that_ships(tmp_path, monkeypatch):
    monkeypatch.undo()
    package, data = tmp_path / "cpnb", tmp_path / "data"
    package.mkdir()
    data.mkdir()
    monkeypatch.setattr(modules, "PACKAGE", package)
    monkeypatch.setattr(keys, "shipped", lambda name: tmp_path / name)
    (package / "__init__.py").write_text("")
    (package / "cp.py").write_text("from cpnb.layer import native")
    (package / "layer").mkdir()
    (package / "layer" / "__init__.py").write_text("")
    (tmp_path / "notebooks").mkdir()
    path = write(tmp_path / "notebooks" / "n.ipynb", "from cpnb import cp")
    found = [key(path, rank=1), key(path, rank=2)]
    assert found[0] == key(path, rank=1)
    for name in ("cpnb/cp.py", "cpnb/kernels.cpp", "cpnb/layer/k.h", "data/charnet.safetensors"):
        with open(tmp_path / name, "a") as file:
            file.write("# changed")
        found.append(key(path, rank=1))
    write(path, "from cpnb import cp\nprint(rank)")
    found.append(key(path, rank=1))
    assert len(set(found)) == 7
    (package / "unrelated.py").write_text("# changed")
    assert key(path, rank=1) == found[-1]


def test_of_cpnb_itself_what_a_public_name_is_from_counts_and_the_rest_does_not():
    used = modules.used_files("import cpnb\ncpnb.decompose(net, ranks)")
    told = {str(file.relative_to(modules.PACKAGE)) for file in used}
    assert {"layers/surgery.py", "cp/nls.py", "__init__.py"} <= told
    assert not {"runs/sweep.py", "study/report.py", "training/loop.py"} & told
    assert modules.used_files("print(rank)") == []


def test_versions_of_packages(tmp_path, monkeypatch):
    path = write(tmp_path / "n.ipynb")
    before = key(path)
    version = importlib.metadata.version
    monkeypatch.setattr(
        machine.importlib.metadata, "version", lambda n: "0" if n == "torch" else version(n)
    )
    assert key(path) != before


def test_odd_texts_among_the_parameters_are_no_paths(tmp_path):
    texts = ["", "\0", "x" * 5000, "~nobody-of-that-name/x", "a\nb", "nls"]
    path = write(tmp_path / "n.ipynb", parameters="texts = ['']")
    found = keys.inputs(path, {"texts": texts})
    assert set(found.named.values()) == {""} and not found.written()


def test_a_link_in_a_circle_and_many_entries_end_the_listing(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "again").symlink_to(data)
    (data / "gone").symlink_to(data / "nowhere")
    for number in range(100):
        (data / f"{number:03d}").write_text("")
    monkeypatch.setattr(keys, "ENTRIES", 50)
    monkeypatch.setenv("CPNB_DATA", str(data))
    path = write(tmp_path / "n.ipynb")
    before = key(path)
    (data / "099").write_text("beyond the entries that count")
    assert key(path) == before
    (data / "000").write_text("counts")
    assert key(path) != before


def test_code_is_read_once_a_process_until_it_changes(tmp_path, monkeypatch):
    big, reads, read = tmp_path / "charnet.safetensors", [], Path.read_bytes
    big.write_bytes(b"weights")
    monkeypatch.setattr(keys, "_code_and_data", lambda _code: [big])
    monkeypatch.setattr(Path, "read_bytes", lambda file: reads.append(file) or read(file))
    path = write(tmp_path / "n.ipynb")
    first = key(path)
    assert key(path) == first and reads == [big]
    big.write_bytes(b"changed")
    assert key(path) != first and reads == [big] * 2


def test_a_key_of_an_earlier_version_is_none(tmp_path, quick):
    path = write(tmp_path / "n.ipynb", "print(1)")
    again = Again(path, tmp_path / "out.ipynb")
    assert again()
    content = json.loads(again.output.read_text())
    del content["metadata"]["cpnb"]["written"]
    again.output.write_text(json.dumps(content))
    assert again()


def test_relative_places_mean_the_same_in_the_kernel(tmp_path, monkeypatch):
    """The kernel works in the notebook's folder, where ../data would be another one."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "home").mkdir()
    names = ("CPNB_DATA", "CPNB_RESULTS")
    path = write(
        tmp_path / "deep" / "n.ipynb",
        f"import os\nprint(*[os.environ[name] for name in {names}], sep='\\n')",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CPNB_DATA", "data")
    monkeypatch.setenv("CPNB_RESULTS", "~/results")
    run = sweep.run_notebook(path, tmp_path / "out.ipynb", progress=False)
    assert printed(run.output).split() == [str(tmp_path / "data"), str(tmp_path / "home/results")]
