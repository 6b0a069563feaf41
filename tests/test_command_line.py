"""One door on the command line: commands are listed, wrong ones named, old ones redirected."""

import os
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cpnb.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]


def run(*words, **variables):
    return subprocess.run(
        [sys.executable, *words], env=os.environ | variables, capture_output=True, text=True
    )


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert main([]) == 0
    assert capsys.readouterr().out == told
    assert all(name in told for name in COMMANDS)


def test_an_unknown_command_lists_those_that_exist(capsys):
    assert main(["sweeep"]) == 2
    told = capsys.readouterr().err
    assert "no such command: sweeep" in told
    assert all(name in told for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_of_its_own(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: python -m cpnb {name}" in capsys.readouterr().out


def test_the_door_opens_before_pytorch_does():
    code = "import sys, cpnb.__main__ as m; m.main(['--help']); print('torch' in sys.modules)"
    assert run("-c", code).stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("name", ["sweep", "report", "publish"])
def test_an_old_command_line_says_the_new_one(name):
    told = run("-m", f"cpnb.{name}", "--help")
    assert told.returncode != 0 and told.stdout == ""
    assert told.stderr.strip() == f"python -m cpnb.{name} is now: python -m cpnb {name}"


def test_the_console_script_is_this_door():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {name: pkgutil.resolve_name(door) for name, door in declared.items()} == {"cpnb": main}
