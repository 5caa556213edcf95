"""Notebooks as tests, beyond what nbval sees: a cell must have been stored as run, and must succeed as people see it.

nbval lets a cell pass that ends with `!false`, that is tagged `raises-exception` and raises nothing, or that was saved
without having been run. The notebooks run against a labkit daemon of their own, which must be empty after each.
"""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from nbval import plugin
from nbval.kernel import RunningKernel, start_new_kernel

from labkit.client import Client
from tests.client.engines import labkit_daemon, remove_containers

_EXIT_STATUS = "get_ipython().user_ns.pop('_exit_code', 0)"  # of the last `!command`, where IPython puts it
_ENGINE = pytest.StashKey[str]()
_FOLDER = pytest.StashKey[str]()


class Kernel(RunningKernel):  # type: ignore[misc]  # nbval has no types
    """nbval's kernel, which also keeps what the kernel replied to a cell, and the exit status of its command."""

    reply: dict[str, Any]

    def __init__(self, kernel_name: str, cwd: str | None = None, startup_timeout: float = 60) -> None:
        # nbval's own opens a file for stderr that nobody closes: a ResourceWarning, and so an error.
        self.km, self.kc = start_new_kernel(startup_timeout, kernel_name, stderr=subprocess.DEVNULL, cwd=cwd)
        self._displays: dict[str, Any] = {}
        self._ensure_iopub_up()

    def get_message(self, stream: str, timeout: float | None = None) -> Any:
        """As a front end does it, what updates an output replaces it; nbval itself keeps the first state."""
        message = super().get_message(stream, timeout=timeout)
        content, name = message["content"], message["content"].get("transient", {}).get("display_id")
        if name and message["msg_type"] == "display_data":
            content["data"] = self._displays[name] = plugin.NotebookNode(content["data"])
        elif name and message["msg_type"] == "update_display_data":
            self._displays[name].clear()
            self._displays[name].update(content["data"])
        return message

    def execute_cell_input(self, cell_input: str, allow_stdin: bool | None = None) -> Any:
        return self.kc.execute(
            cell_input,
            store_history=False,
            allow_stdin=allow_stdin,
            stop_on_error=False,
            user_expressions={"status": _EXIT_STATUS},
        )

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        message = self.get_message("shell", timeout)
        while message["parent_header"].get("msg_id") != msg_id:
            message = self.get_message("shell", timeout)
        self.reply = message["content"]


plugin.RunningKernel = Kernel
CELL_SECONDS = 300
"""A cell may make an image of Debian packages, on a busy machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, plugin.IPyNbCell):
            item.add_marker(pytest.mark.timeout(CELL_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Before the first notebook: a daemon. Kernels start in here, and inherit the environment that names it."""
    if not isinstance(item, plugin.IPyNbCell):
        yield
        return
    if _ENGINE not in item.config.stash:
        stack = ExitStack()
        item.config.add_cleanup(stack.close)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="labkit-notebooks-")))
        item.config.stash[_ENGINE] = stack.enter_context(labkit_daemon(folder))
        item.config.stash[_FOLDER] = str(folder / "ipython")
    host, folder_of_ipython = item.config.stash[_ENGINE], item.config.stash[_FOLDER]
    with pytest.MonkeyPatch.context() as environment:
        for name, value in (("LABKIT_HOST", host), ("DOCKER_HOST", host), ("IPYTHONDIR", folder_of_ipython)):
            environment.setenv(name, value)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    if isinstance(item, plugin.IPyNbCell) and item.cell.execution_count != item.cell_num + 1:
        item.raise_cell_error("the notebook was not saved as run from top to bottom: restart, run all cells, save")
    yield
    if isinstance(item, plugin.IPyNbCell):
        _check_reply(item, item.parent.kernel.reply)


def _check_reply(cell: Any, reply: dict[str, Any]) -> None:
    tagged = cell.options["check_exception"]
    if tagged and reply["status"] == "ok":
        cell.raise_cell_error("the cell is tagged raises-exception, and raised nothing")
    if not tagged and reply["status"] != "ok":
        cell.raise_cell_error(f"the cell failed: {reply.get('ename')}: {reply.get('evalue')}")
    if reply["status"] == "ok" and (status := reply["user_expressions"]["status"]["data"]["text/plain"]) != "0":
        cell.raise_cell_error(f"the cell's command ended with exit status {status}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    yield
    ends = nextitem is None or nextitem.parent is not item.parent
    if isinstance(item, plugin.IPyNbCell) and ends:
        left = _left_behind(item.config.stash[_ENGINE])
        assert not left, f"the notebook leaves containers or volumes behind: {left}"


def _left_behind(host: str) -> list[str]:
    """The names of the engine's containers and volumes, which are removed."""
    client = Client(host)
    containers = client.get("/containers/json", {"all": True})
    volumes = client.get("/volumes")["Volumes"]
    client.close()
    remove_containers(host)
    return [*(one["Names"][0] for one in containers), *(one["Name"] for one in volumes)]
