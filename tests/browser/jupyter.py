"""A JupyterLab of its own (home, settings, port, token) with the course in it, and Chromium to look at it with."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds that starting may take on a busy machine."""

QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}

READY = """async () => {
    const app = window.jupyterapp;
    await app.restored;
    const panel = app.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    while (panel.sessionContext.session.kernel.status !== 'idle') {
        await new Promise(again => setTimeout(again, 50));
    }
}"""
"""JupyterLab has no one event for `can run cells now`, and a promise given to wait_for_function counts as true."""

CELLS = """() => Array.from(window.jupyterapp.shell.currentWidget.content.model.cells)
    .filter(cell => cell.type === 'code')
    .map(cell => ({count: cell.executionCount, outputs: cell.outputs.toJSON()}))"""


@dataclass(frozen=True, slots=True)
class Lab:
    """A JupyterLab that runs, and its token."""

    url: str
    token: str

    def notebook(self, name: str) -> str:
        """The address of a notebook, opened in a workspace without a past."""
        return f"{self.url}/lab/tree/{name}?reset&token={self.token}"


@contextmanager
def jupyterlab(folder: Path, environment: dict[str, str]) -> Iterator[Lab]:
    """JupyterLab on a copy of the notebooks. On leaving, it and its kernels end."""
    shutil.copytree(REPOSITORY / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("*.py", "__*"))
    settings = folder / "settings"
    for name, content in QUIET.items():
        plugin, _, part = name.rpartition(":")
        (settings / plugin).mkdir(parents=True)
        (settings / plugin / f"{part}.jupyterlab-settings").write_text(json.dumps(content))
    port, token = free_port(), secrets.token_hex(16)
    argv = [sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser", "--allow-root"]
    argv += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    argv += [f"--ServerApp.root_dir={folder / 'notebooks'}"]
    with open(folder / "jupyter.log", "wb") as log:
        server = subprocess.Popen(
            argv, env=home(folder) | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )
    lab = Lab(f"http://127.0.0.1:{port}", token)
    try:
        wait_until_it_answers(lab, server, folder / "jupyter.log")
        yield lab
    finally:
        shut_down(lab, server)


def home(folder: Path) -> dict[str, str]:
    """An environment in which nothing of the user's own Jupyter is read or written."""
    places = {
        "HOME": "home",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    for place in places.values():
        (folder / place).mkdir(exist_ok=True)
    own = {name: str(folder / place) for name, place in places.items()}
    return {**os.environ, **own, "PYTHONPATH": str(REPOSITORY)}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until_it_answers(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    """Jupyter says in its log only that it listens; tail follows the log, and ends if the server does."""
    argv = ["tail", "-n", "+1", "-f", f"--pid={server.pid}", str(log)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout
        heard = any(f"{lab.url}/lab" in line for line in tail.stdout)
        tail.terminate()
    assert heard, log.read_text()


def shut_down(lab: Lab, server: subprocess.Popen[bytes]) -> None:
    """As File, Shut Down does; the server ends its kernels first. One that doesn't is killed."""
    if server.poll() is None:
        request = urllib.request.Request(f"{lab.url}/api/shutdown", method="POST")
        request.add_header("Authorization", f"token {lab.token}")
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    try:
        server.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        raise


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a display."""
    program = shutil.which("chromium")
    assert program, "this test drives Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_notebook(browser: Browser, lab: Lab, name: str) -> Page:
    """A page with a notebook whose kernel is idle."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(lab.notebook(name))
    page.wait_for_function("window.jupyterapp && window.jupyterapp.shell && window.jupyterapp.shell.currentWidget")
    page.evaluate(READY)
    return page


def run_all(page: Page) -> list[dict[str, Any]]:
    """Runs all cells; the code cells' execution counts and outputs, as JupyterLab has them then."""
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    cells: list[dict[str, Any]] = page.evaluate(CELLS)
    return cells
