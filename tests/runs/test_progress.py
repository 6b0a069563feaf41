"""Long work shows itself in the terminal too, and good runs end without a word from the kernel."""

import asyncio
import time

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from cpnb.runs import progress, sweep
from cpnb.runs.kernels import ThisInterpreter

GRID = """from cpnb.runs.sweep import run_grid
runs = run_grid("inner.ipynb", {"n": [1, 2]}, folder)
print(len(runs), "points")"""
BAR = "x:  50%|##   | 1/2 [00:01<00:01]"


def write(path, parameters, code):
    cells = [
        new_markdown_cell("# A notebook"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell(code),
    ]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


# Bars


def test_only_bars_are_shown_and_only_the_newest(capsys):
    relay = progress.Relay()
    relay.write("UserWarning: no bar\n")
    assert not capsys.readouterr().err
    relay.write(f"\rx:   0%|     | 0/2 [00:00<?, ?run/s]\r\x1b[A{BAR}")
    relay.flush()
    assert capsys.readouterr().err.strip().endswith(BAR)
    relay.close()


def test_a_grid_inside_a_notebook_shows_its_points_in_the_terminal(tmp_path, capsys):
    write(tmp_path / "inner.ipynb", "n = 0", "print(n)")
    path = write(tmp_path / "outer.ipynb", 'folder = ""', GRID)
    given = {"folder": str(tmp_path / "points")}
    run = sweep.run_notebook(path, tmp_path / "out" / "outer.ipynb", given)
    shown = capsys.readouterr().err
    assert "outer:" in shown  # the bar over cells
    for point in ("0/2", "n=1", "1/2", "n=2", "2/2"):
        assert point in shown.split("inner:", 1)[1]
    (kept,) = outputs(run.output)
    assert kept.text == "2 points\n"  # the bar is not kept in the notebook


def test_a_run_without_progress_shows_nothing(tmp_path, capsys):
    code = f"import sys\nprint({BAR!r}, file=sys.stderr)"
    path = write(tmp_path / "n.ipynb", "n = 0", code)
    sweep.run_notebook(path, tmp_path / "out.ipynb", progress=False)
    assert not capsys.readouterr().err


def test_in_an_open_notebook_the_bar_is_a_widget(monkeypatch):
    """As tqdm.auto has it; text is for kernels whose notebook nobody looks at."""
    monkeypatch.delenv(progress.AS_TEXT, raising=False)
    assert type(progress.progress_bar(disable=True)) is progress.tqdm.auto.tqdm
    monkeypatch.setenv(progress.AS_TEXT, "1")
    assert type(progress.progress_bar(disable=True)) is progress.tqdm.std.tqdm


# The end of a kernel

# A handler that stays when the cell is over: an interrupt that comes then is written down.
WATCH = """import pathlib
told = pathlib.Path(file)
get_ipython().kernel.saved_sigint_handler = lambda *_: told.write_text("interrupted")"""


def test_a_kernel_that_has_nothing_to_do_is_not_interrupted(tmp_path):
    told = tmp_path / "interrupts"
    path = write(tmp_path / "n.ipynb", 'file = ""', WATCH)
    sweep.run_notebook(path, tmp_path / "out.ipynb", {"file": str(told)}, progress=False)
    assert not told.exists()


def test_a_busy_kernel_is_interrupted_and_can_clean_up(tmp_path):
    begun, told = tmp_path / "begun", tmp_path / "interrupts"
    code = (
        f"import pathlib, time\ntry:\n    pathlib.Path({str(begun)!r}).touch(); time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    pathlib.Path({str(told)!r}).touch()"
    )

    async def stop_in_a_cell():
        manager = ThisInterpreter()
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        client.execute(code)
        deadline = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await manager.shutdown_kernel()
        client.stop_channels()

    asyncio.run(stop_in_a_cell())
    assert begun.exists() and told.exists()
