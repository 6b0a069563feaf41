"""A student opens a release in JupyterLab, runs all cells, reads the checks and validates."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
import websocket

from cpnb.course.masters import find_assignment, release

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
PATIENCE = 90  # seconds for each thing that is waited for


class Page:
    """A page of a browser, driven by the Chrome DevTools protocol."""

    def __init__(self, address):
        self.socket = websocket.create_connection(address, suppress_origin=True, timeout=PATIENCE)
        self.numbers = itertools.count(1)

    def ask(self, method, **parameters):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                return answer["result"]

    def run(self, code):
        """The value of an expression in the page."""
        options = {"awaitPromise": True, "returnByValue": True}
        return self.ask("Runtime.evaluate", expression=code, **options)["result"].get("value")

    def wait_for(self, code):
        """Wait until an expression holds; fail with what is to be seen."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.run(f"Boolean({code})"):
                return
            time.sleep(0.3)
        pytest.fail(
            f"{code} did not come true; the page says {self.run('document.body.innerText')}"
        )


def _wait_for_line(process, pattern):
    for line in process.stderr:
        if found := re.search(pattern, line):
            return found[1]
    raise RuntimeError(f"{process.args[0]} ended early")


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a folder with a release: its address."""
    assignment = find_assignment("1")
    nbformat.write(release(assignment.master), tmp_path / "release.ipynb")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--allow-root"]
    command += ["--ServerApp.root_dir", str(tmp_path), "--LabApp.expose_app_in_browser=True"]
    home = {name: str(tmp_path / "home") for name in ("HOME", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | home
    ) as process:
        try:
            address = _wait_for_line(
                process, r"(http://(?:localhost|127[.\d]+):\d+/lab\?token=\w+)"
            )
            yield address.replace("/lab?", "/lab/tree/release.ipynb?")
        finally:
            process.terminate()
            process.stderr.close()


@pytest.fixture
def page(tmp_path):
    """An empty page of a headless browser."""
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1600,1000",
    ]
    command += [
        "--remote-debugging-port=0",
        f"--user-data-dir={tmp_path / 'browser'}",
        "about:blank",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = _wait_for_line(process, r"ws://([\d.]+:\d+)/")
            with urllib.request.urlopen(f"http://{address}/json") as told:
                (tab,) = [t for t in json.load(told) if t["type"] == "page"]
            yield Page(tab["webSocketDebuggerUrl"])
        finally:
            process.terminate()
            process.stderr.close()


NOTEBOOK = "[...window.jupyterapp?.shell?.widgets('main') ?? []].find(w => w.sessionContext)"
BUTTON = "document.querySelector('.validate-button')"


def test_a_release_runs_and_is_validated_in_jupyterlab(lab, page):
    page.ask("Emulation.setFocusEmulationEnabled", enabled=True)  # JupyterLab acts on what has it
    page.ask("Page.navigate", url=lab)
    page.wait_for(f"{NOTEBOOK}?.sessionContext.session?.kernel?.status == 'idle'")
    page.run(f"jupyterapp.shell.activateById({NOTEBOOK}.id)")
    page.wait_for("jupyterapp.shell.currentWidget")
    page.run("jupyterapp.commands.execute('notebook:run-all-cells')")
    outputs = page.run(f"JSON.stringify({NOTEBOOK}.content.model.toJSON())")
    assert "outer is not answered yet" in outputs and "descend is not answered yet" in outputs
    assert '"output_type":"error"' not in outputs
    assert "image/svg+xml" in outputs and "two vectors: a matrix; error 0" in outputs
    if page.run(f"{BUTTON} == null"):
        pytest.skip("nbgrader's extension of JupyterLab is not installed; the rest was tested")
    page.run(f"{BUTTON}.click()")
    page.wait_for("document.querySelector('.jp-Dialog')?.innerText.match(/failed/i)")
