"""The house: pins agree, documents tell no commands that do not exist, imports go downwards."""

import ast
import importlib.util
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

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(ROOT.glob("cpnb/**/*.py"))
MAX_LINES = 300
# A module imports only from floors below its own. A new module gets its place here.
FLOORS = [
    ["machine", "cp", "checkpoints", "recipe", "distort", "fastconv", "figures", "findings",
     "comparison", "norms", "clusters", "vbmf", "images"],
    ["records", "mttkrp", "metric", "gauss_newton", "glyphs", "nets", "evaluation", "factored",
     "alexnet", "alexnet_claims", "rival_claims"],
    ["starts", "descent", "data", "engine", "parameters", "publish", "claims"],
    ["nls", "als", "squeezenet"],
    ["layers", "samples", "training", "speed", "notebooks", "jaderberg", "denton", "lowrank",
     "reconstruct"],
    ["rivals", "patches", "fused", "roofline"],
    ["compress"],
    ["inference"],
    ["sweep", "report"],
]  # fmt: skip


def pins(lines) -> dict:
    requirements = [Requirement(line) for line in lines if line.strip() and line[0] not in "#-"]
    return {canonicalize_name(r.name): str(r.specifier) for r in requirements}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def bounds() -> dict:
    """What a checkout needs: the package's dependencies, JupyterLab, and the tests' tools."""
    told = project()
    extras = told["optional-dependencies"]
    lines = [*told["dependencies"], *extras["lab"], *extras["test"]]
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
    lines = project()["dependencies"] + project()["optional-dependencies"]["gpu"]
    told = {canonicalize_name(Requirement(line).name) for line in lines}
    package_of = {"PIL": "pillow", "yaml": "pyyaml", "jupyter_client": "jupyter-client"}
    found = {name.split(".")[0] for path in MODULES for name in imports(path)}
    found -= {"cpnb", "__future__"} | set(sys.stdlib_module_names)
    missing = {name for name in found if package_of.get(name, name) not in told}
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
            names |= {f"{node.module}.{a.name}" for a in node.names if node.module == "cpnb"}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards(path):
    floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    room = path.relative_to(ROOT / "cpnb").parts[0].removesuffix(".py")
    if room == "__init__":
        return  # The door to all rooms.
    assert room in floor_of, f"give {room} a floor in FLOORS"
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("cpnb.")} - {room}
    upwards = {name for name in inside if floor_of.get(name, -1) >= floor_of[room]}
    assert not upwards, f"{room} imports from its own floor or above: {sorted(upwards)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "a module opens with what it is for"
    assert 'filterwarnings("ignore"' not in text


# Documents

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "data/README.md"]


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


def is_command(module) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and '__name__ == "__main__"' in Path(spec.origin).read_text()


def command_problems(words) -> list:
    """What of a command does not exist in this repository."""
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]  # settings
    problems = []
    if words and words[0] == "make":
        problems += [f"make {w}" for w in words[1:] if w[0] != "-" and w not in targets()]
    for option, module in zip(words, words[1:], strict=False):
        if option == "-m" and module.startswith("cpnb") and not is_command(module):
            problems.append(f"python -m {module}")
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"results", ".venv"}
    for word in words:
        name = word.partition("=")[2] or word
        inside = name.split("/")[0] in folders and "/" in name
        if inside and not re.search(r"[<>{}*]", name) and not (ROOT / name).exists():
            problems.append(name)
    return problems


def test_commands_are_found_in_text():
    text = (
        "```bash\nmake PY=python3 nope # or\n$ python -m cpnb.cp \\\n  cpnb/nope.py\n```\n"
        "text\n\n    make nope2\n\nand `make nope3`\n```python\nmake = 1\n```\n"
    )
    found = [problem for words in commands(text) for problem in command_problems(words)]
    assert found == ["make nope", "python -m cpnb.cp", "cpnb/nope.py", "make nope2", "make nope3"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_tell_commands_and_files_that_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    problems = [problem for words in commands(text) for problem in command_problems(words)]
    folder = (ROOT / name).parent
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        problems += [] if (folder / link).exists() else [f"link to {link}"]
    assert not problems


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
