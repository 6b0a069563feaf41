"""The house: pins agree, documents tell no commands that do not exist, imports go downwards."""

import ast
import graphlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cpnb
from cpnb.__main__ import COMMANDS
from cpnb.runs import arguments

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(ROOT.glob("cpnb/**/*.py"))
MAX_LINES = 300
# A room imports only from rooms on floors below its own. README says what each is for.
FLOORS = [
    ["cp"], ["layers", "runs"], ["course", "data"], ["nets"], ["training"], ["inference"],
    ["study"],
]  # fmt: skip
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
DOORS = {"__init__", "__main__"}  # they open every room
PUBLIC = (ROOT / "tests" / "public_names.txt").read_text().split()


def dotted(path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def pins(lines) -> dict:
    requirements = [Requirement(line) for line in lines if line.strip() and line[0] not in "#-"]
    return {canonicalize_name(r.name): str(r.specifier) for r in requirements}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def bounds() -> dict:
    """What a checkout needs: the package's dependencies, JupyterLab, nbgrader, the tests' tools."""
    told = project()
    extras = told["optional-dependencies"]
    lines = [*told["dependencies"], *extras["lab"], *extras["course"], *extras["test"]]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def test_requirements_pin_what_pyproject_asks_for():
    pinned = pins((ROOT / "requirements.txt").read_text().splitlines())
    wanted = bounds()
    assert set(pinned) == set(wanted)
    for name, specifier in pinned.items():
        assert re.fullmatch(r"==[0-9.]+", specifier), f"{name} is not pinned exactly"
        assert wanted[name].specifier.contains(specifier[2:]), f"{name}{specifier}"
        assert ">=" in str(wanted[name].specifier), f"{name} has no lower bound in pyproject.toml"


def test_environment_has_the_pins_of_requirements():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pins(pip) == pins((ROOT / "requirements.txt").read_text().splitlines())
    assert any(re.fullmatch(r"-e \./?", line) for line in pip), "cpnb itself is not installed"
    (python,) = [e for e in environment["dependencies"] if str(e).startswith("python=")]
    assert Requirement(f"python{project()['requires-python']}").specifier.contains(
        python.partition("=")[2]
    )


def test_every_import_is_a_declared_dependency():
    """Of cpnb: what it imports and does not bring itself stands in pyproject.toml."""
    extras = project()["optional-dependencies"]
    optional = (
        line
        for name in ("gpu", "runtimes", "course", "dask", "accelerate")
        for line in extras[name]
    )
    lines = [*project()["dependencies"], *optional]
    told = {canonicalize_name(Requirement(line).name) for line in lines}
    package_of = {"PIL": "pillow", "yaml": "pyyaml", "zmq": "pyzmq"}
    found = {name.split(".")[0] for path in MODULES for name in imports(path)}
    found -= {"cpnb", "__future__"} | set(sys.stdlib_module_names)
    missing = {n for n in found if canonicalize_name(package_of.get(n, n)) not in told}
    assert not missing


def imports(path) -> set:
    """Full names of all modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def outside_functions(node):
    """All nodes of the syntax that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def test_what_takes_seconds_to_import_is_imported_where_it_is_used():
    """Every kernel and every command would wait for it."""
    slow, found = {"torchvision", "scipy", "onnx", "onnxruntime", "openvino"}, []
    for path in MODULES:
        for node in outside_functions(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            found += [f"{dotted(path)}: {n}" for n in names if n.split(".")[0] in slow]
    assert not found


def test_the_house_has_its_rooms_and_nothing_beside_them():
    inside = {path.stem for path in (ROOT / "cpnb").iterdir() if path.name != "__pycache__"}
    assert inside == set(ROOMS) | DOORS


def room_of(name: str) -> str:
    """Of a dotted name such as cpnb.cp.nls: cp."""
    return name.split(".")[1]


def arrows() -> list:
    """(importing module, imported module) for all imports between modules of cpnb."""
    known = {dotted(path) for path in MODULES}
    return [
        (dotted(path), name)
        for path in MODULES
        if path.parent.name != "cpnb"
        for name in sorted(imports(path) & known - {"cpnb"})
    ]


def test_imports_go_downwards_from_room_to_room():
    found = [(a, b) for a, b in arrows() if room_of(a) != room_of(b)]
    upwards = [(a, b) for a, b in found if ROOMS[room_of(b)] >= ROOMS[room_of(a)]]
    assert len(found) > 25 and not upwards


@pytest.mark.parametrize("room", ROOMS)
def test_imports_inside_a_room_run_in_no_circle(room):
    graph = {}
    for a, b in arrows():
        if room_of(a) == room_of(b) == room and b != f"cpnb.{room}":
            graph.setdefault(a, set()).add(b)
    assert graph
    order = list(graphlib.TopologicalSorter(graph).static_order())  # a CycleError names the circle
    assert len(order) == len(set(order))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for(room):
    path = ROOT / "cpnb" / room / "__init__.py"
    told = " ".join(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).split())
    assert "Start reading at `" in told
    assert re.search(r"nothing of|none knows of it", told)
    for name in re.findall(r"Start reading at `(\w+)`", told):
        assert (path.parent / f"{name}.py").is_file()


def test_every_public_name_stays():
    assert sorted(cpnb.__all__) == PUBLIC
    assert all(getattr(cpnb, name) is not None for name in PUBLIC)


def test_tests_stand_in_the_rooms_they_are_of():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= set(ROOMS) | {"notebooks", "benchmarks", "site"} and folders >= set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "a module opens with what it is for"
    assert 'filterwarnings("ignore"' not in text


# Documents

COURSE = "notebooks/assignments"
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "data/README.md", "cpnb/runs/README.md"]
DOCUMENTS += [f"{COURSE}/{name}.md" for name in ("INSTRUCTOR", "STUDENT", "AGENTS")]


def commands(text):
    """Commands for a shell: lines of code blocks, fenced or indented, and `make ...` in a line.

    Comments are removed and continued lines joined.
    """
    text = text.replace("\\\n", " ")
    fenced = re.findall(r"^```(?:bash|sh|console|shell)\n(.*?)^```", text, flags=re.M | re.S)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += re.findall(r"^    (\S.*)", prose, flags=re.M) + re.findall(r"`(make \w[^`]*)`", prose)
    for line in lines:
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words:
            yield words


def targets() -> set:
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z-]+):", text, flags=re.M))


def is_command(module, word) -> bool:
    """Whether ``python -m module word`` is one: ours go through one door."""
    return module == "cpnb" and word in {*COMMANDS, "--help"}


def command_problems(words) -> list:
    """What of a command does not exist in this repository."""
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]  # settings
    problems = []
    if words and words[0] == "make":
        problems += [f"make {w}" for w in words[1:] if w[0] != "-" and w not in targets()]
    for option, module, word in zip(words, words[1:], [*words[2:], ""], strict=False):
        if option == "-m" and module.startswith("cpnb") and not is_command(module, word):
            problems.append(f"python -m {module} {word}".rstrip())
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"results", ".venv"}
    made = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    for word in words:
        name = word.partition("=")[2] or word
        inside = name.split("/")[0] in folders and "/" in name and name not in made
        if inside and not re.search(r"[<>{}*]", name) and not (ROOT / name).exists():
            problems.append(name)
    return problems


def test_commands_are_found_in_text():
    text = (
        "```bash\nmake PY=python3 nope # or\n$ python -m cpnb nope5 \\\n  cpnb/nope.py\n```\n"
        "text\n\n    make nope2\n\nand `make nope3`\n```python\nmake = 1\n```\n"
    )
    found = [problem for words in commands(text) for problem in command_problems(words)]
    assert found == [
        "make nope",
        "python -m cpnb nope5",
        "cpnb/nope.py",
        "make nope2",
        "make nope3",
    ]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_tell_commands_and_files_that_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    problems = [problem for words in commands(text) for problem in command_problems(words)]
    folder = (ROOT / name).parent
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        problems += [] if (folder / link).exists() else [f"link to {link}"]
    assert not problems


def sweeps(text):
    """Words behind `sweep` of each command of a text, those of `make sweep` among them."""
    for words in commands(text):
        if words[:2] == ["make", "sweep"]:
            given = dict(word.split("=", 1) for word in words[2:])
            yield [given["NOTEBOOK"], "--grid", *given["GRID"].split()]
        elif "sweep" in words and "cpnb" in words:
            yield words[words.index("sweep") + 1 :]


def test_sweeps_are_found_in_text():
    text = (
        "    A=x python -m cpnb sweep a --grid b=1,2  # c\n\n`make sweep NOTEBOOK=a GRID='b=1 c=2'`"
    )
    assert [*sweeps(text)] == [["a", "--grid", "b=1,2"], ["a", "--grid", "b=1", "c=2"]]


@pytest.mark.parametrize(
    "name", ["Makefile", "cpnb/runs/README.md", "cpnb/runs/sweep.py", "data/README.md"]
)
def test_sweeps_that_are_told_would_run(name, tmp_path, monkeypatch):
    """Their notebooks have the parameters that they give, of these types."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name == "Makefile":
        text = "".join(f"`{told}`" for told in re.findall(r"^sweep:.*: (make .*)", text, re.M))
    elif name.endswith(".py"):
        text = ast.get_docstring(ast.parse(text))
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    (tmp_path / "points.csv").write_text("layer\nconv1\nconv2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPNB_RESULTS", str(tmp_path / "results"))
    found = [*sweeps(text)]
    assert found
    for words in found:
        arguments.parse(words)  # what is wrong it says, and exits


def test_the_readme_tells_the_two_commands():
    told = [words[:2] for words in commands((ROOT / "README.md").read_text(encoding="utf-8"))]
    assert ["make", "replicate"] in told and ["make", "test"] in told


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_help_tells_every_target():
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    told = {line.split()[1] for line in text.stdout.splitlines() if line.startswith("  make ")}
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)
    assert told == set(phony[1].split())


@needs_make
def test_a_missing_python_is_told(tmp_path):
    command = ["make", "-C", str(ROOT), "PY=no-such-python", f"VENV={tmp_path / 'venv'}", "lint"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode != 0 and "'no-such-python' is not a Python" in run.stderr
    assert not (tmp_path / "venv").exists()


def repository_files() -> list:
    """Files that are committed or would be."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in run.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_file_has_a_path_of_one_machine():
    own = "|".join(re.escape(str(folder)) for folder in {ROOT, ROOT.parent} - {Path("/")})
    others = "|".join(["home/[a-z]", "Users/[A-Za-z]", "mnt/[a-z]"])
    path = re.compile(rf"(?<![\w.~<>/+-])(?:{own}|/(?:{others}))[\w/.-]*")
    temporary = re.compile("/" + r"tmp/[\w.-]+")  # in two: a checkout may lie there
    found = []
    for file in repository_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # Binary: tensors and images.
        hits = path.findall(text)
        hits += temporary.findall(text) if file.suffix == ".ipynb" else []
        found += [f"{file.relative_to(ROOT)}: {hit}" for hit in hits]
    assert not found


def test_local_results_and_environments_are_ignored():
    names = {str(path.relative_to(ROOT)) for path in repository_files()}
    assert not [n for n in names if n.startswith((".venv/", "results/local/"))]
    assert not [n for n in names if n.endswith((".failed.ipynb", ".partial.ipynb", ".pyc", ".pt"))]
