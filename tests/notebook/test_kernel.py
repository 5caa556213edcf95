"""`%load_ext labkit` in a real kernel: output as it comes, failed cells, interrupts, completion, explanations."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from labkit.client import Client

pytestmark = pytest.mark.root


class Cell(NamedTuple):
    """What a cell gave."""

    reply: dict[str, Any]
    stdout: str
    stderr: str
    results: list[dict[str, Any]]
    traceback: str


class Kernel:
    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def send(self, code: str) -> str:
        sent: str = self.client.execute(code, allow_stdin=False)
        return sent

    def outputs(self, sent: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(type, content) of a cell's outputs, as they arrive, until it is done."""
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != sent:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
            yield message["msg_type"], message["content"]

    def finish(self, sent: str, said: list[tuple[str, dict[str, Any]]] | None = None) -> Cell:
        said = [*(said or []), *self.outputs(sent)]
        while (reply := self.client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != sent:
            pass
        streams = {
            name: "".join(c["text"] for t, c in said if t == "stream" and c["name"] == name)
            for name in ("stdout", "stderr")
        }
        results = [content["data"] for kind, content in said if kind in ("execute_result", "display_data")]
        traceback = "".join("\n".join(content["traceback"]) for kind, content in said if kind == "error")
        return Cell(reply["content"], streams["stdout"], streams["stderr"], results, traceback)

    def run(self, code: str) -> Cell:
        return self.finish(self.send(code))

    def wait_for(self, sent: str, text: str) -> list[tuple[str, dict[str, Any]]]:
        """The outputs up to the one that contains the text."""
        said = []
        for kind, content in self.outputs(sent):
            said.append((kind, content))
            if kind == "stream" and text in content["text"]:
                return said
        raise AssertionError(said)


@pytest.fixture(scope="module")
def started(engine_host: str) -> Iterator[Kernel]:
    manager = KernelManager()
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        kernel = Kernel(manager, client)
        assert kernel.run(f"import os; os.environ['DOCKER_HOST'] = {engine_host!r}").reply["status"] == "ok"
        assert kernel.run("%load_ext labkit").reply["status"] == "ok"
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(started: Kernel, engine: str) -> Kernel:
    return started


def test_output_comes_to_its_streams(kernel: Kernel) -> None:
    cell = kernel.run("%docker run --rm --network none labbb sh -c 'echo out ü; echo err >&2'")
    assert (cell.reply["status"], cell.stdout, cell.stderr) == ("ok", "out ü\n", "err\n")


def test_output_is_seen_before_the_command_ends(kernel: Kernel, engine: str) -> None:
    sent = kernel.send("%docker run --rm --name slow --network none labbb sh -c 'echo first; sleep 99 & wait'")
    said = kernel.wait_for(sent, "first")
    client = Client(engine)
    client.request("POST", "/containers/slow/kill").body()
    client.close()
    assert kernel.finish(sent, said).reply["status"] == "error"


def test_a_failed_command_fails_the_cell(kernel: Kernel) -> None:
    cell = kernel.run("%docker run --rm --network none labbb sh -c 'exit 3'")
    assert (cell.reply["status"], cell.reply["ename"]) == ("error", "DockerCommandError")
    assert cell.traceback == "DockerCommandError: docker run: exit status 3"
    assert kernel.run(
        "try:\n    %docker inspect nosuch\nexcept Exception as e: print(type(e).__name__, e.exit_code, e)"
    ).stdout == ("[]\nDockerCommandError 1 Error: No such object: nosuch\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run -it labbb", "the input device is not a TTY: a notebook cell has no terminal"),
        ("run -t labbb", "the input device is not a TTY: a notebook cell has no terminal"),
        ("save labbb", "cowardly refusing to save to a terminal. Use the -o flag or redirect"),
        ("load", "there is no standard input here: name a file"),
        ("foo", "docker: unknown command: docker foo"),
        ("ps 'x", "No closing quotation in: ps 'x"),
    ],
)
def test_what_a_cell_cannot_do_is_said(kernel: Kernel, line: str, message: str) -> None:
    cell = kernel.run(f"%docker {line}")
    assert cell.reply["ename"] == "DockerCommandError"
    assert cell.reply["evalue"].startswith(message)
    assert cell.traceback.count("\n") == cell.reply["evalue"].count("\n")


def test_variables_are_expanded_and_templates_are_not(kernel: Kernel) -> None:
    kernel.run("name = 'web'\n%docker create --name {name} --network none labbb true")
    cell = kernel.run("%docker ps -a --filter name=$name --format '{{.Names}} {{json .State}}'")
    assert cell.stdout == 'web "created"\n'


def test_standard_input_is_empty(kernel: Kernel) -> None:
    assert kernel.run("%docker run --rm -i --network none labbb sh -c 'cat; echo end'").stdout == "end\n"


def test_an_interrupt_reaches_the_container(kernel: Kernel) -> None:
    script = 'trap "echo stopping; exit 0" INT; echo ready; while :; do sleep 0.05; done'
    sent = kernel.send(f"%docker run --rm --network none labbb sh -c '{script}'")
    said = kernel.wait_for(sent, "ready")
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(sent, said)
    assert cell.stdout == "ready\nstopping\n"
    # The command ended well, but the cell was interrupted: the cells after it must not run on.
    assert (cell.reply["status"], cell.reply["ename"]) == ("error", "KeyboardInterrupt")
    assert kernel.run("1 + 1").reply["status"] == "ok"


def test_a_container_that_ignores_interrupts_is_left_on_the_second(kernel: Kernel) -> None:
    sent = kernel.send("%docker run --name deaf --network none labbb sh -c 'echo ready; exec sleep 99'")
    said = kernel.wait_for(sent, "ready")
    kernel.manager.interrupt_kernel()
    said += kernel.wait_for(sent, "pid_namespaces(7)")
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(sent, said)
    assert cell.reply["ename"] == "DockerCommandError"
    assert kernel.run("%docker inspect -f '{{.State.Status}}' deaf").stdout == "running\n"


def test_an_interrupt_ends_what_only_listens(kernel: Kernel) -> None:
    kernel.run("%docker run -d --name talks --network none labbb sh -c 'echo hi; sleep 99'")
    sent = kernel.send("%docker logs -f talks")
    said = kernel.wait_for(sent, "hi")
    kernel.manager.interrupt_kernel()
    assert kernel.finish(sent, said).reply["ename"] == "KeyboardInterrupt"


def complete(kernel: Kernel, code: str) -> list[str]:
    matches: list[str] = kernel.client.complete(code, reply=True, timeout=60)["content"]["matches"]
    return matches


def test_packets_are_a_table_after_an_interrupt_and_after_a_lesson(kernel: Kernel, engine: str) -> None:
    kernel.run("%docker run -d --name app --network none labbb sleep 1000")
    ping = ["docker", "-H", engine, "exec", "app", "ping", "-c", "1", "127.0.0.1"]
    sent = kernel.send("%docker capture --protocol icmp --no-times app")
    said = kernel.wait_for(sent, "capturing on any of app, until interrupted")
    subprocess.run(ping, check=True, stdout=subprocess.DEVNULL)
    kernel.manager.interrupt_kernel()
    interrupted = kernel.finish(sent, said)
    assert (interrupted.reply["status"], interrupted.reply["ename"]) == ("error", "KeyboardInterrupt")
    lesson = kernel.run(
        "from labkit.lab import Capture\n"
        "with Capture('app', protocol='icmp', times=False) as seen:\n"
        "    %docker exec app ping -c 1 127.0.0.1\n"
        "seen"
    )
    expected = ["127.0.0.1", "127.0.0.1", "ICMP", "echo", "request", "0"]
    for cell in (interrupted, lesson):
        assert cell.results[0]["text/plain"].splitlines()[1].split() == expected
        assert "<caption>2 packets</caption>" in cell.results[0]["text/html"]


def test_completion(kernel: Kernel) -> None:
    kernel.run("%docker create --name alpha --network none labbb true")
    assert complete(kernel, "%docker rm al") == ["alpha"]
    assert complete(kernel, "%docker run --rm lab") == ["labbb:latest"]
    assert complete(kernel, "%docker ren") == ["rename"]
    assert complete(kernel, "x = 1\n%docker run --netw") == ["--network", "--network-alias"]
    assert "alpha" not in complete(kernel, "al")


def test_connect_gives_the_sdk_with_tables(kernel: Kernel) -> None:
    kernel.run("%docker create --name alpha --network none labbb true")
    cell = kernel.run("import labkit\nsdk = labkit.connect()\nsdk.containers.list(all=True)")
    assert "alpha" in cell.results[0]["text/plain"]
    assert "<caption>1 container</caption>" in cell.results[0]["text/html"].lower()
    assert kernel.run("sdk.close()").reply["status"] == "ok"


@pytest.mark.parametrize(
    "action",
    ["%docker run --rm --network none labbb true", "_ = sdk.containers.run('labbb', 'true', network_mode='none')"],
)
def test_explain_tells_the_last_action(kernel: Kernel, action: str) -> None:
    kernel.run("import labkit\nsdk = labkit.connect()")
    assert kernel.run(action).reply["status"] == "ok"
    cell = kernel.run("%explain")
    assert cell.reply["status"] == "ok", cell.traceback
    text = cell.results[0]["text/plain"]
    assert "POST" in text
    assert "/start" in text
    assert "execve" in text
    kernel.run("sdk.close()")


def test_explaining_what_is_not_known_fails_shortly(kernel: Kernel) -> None:
    cell = kernel.run("%explain nosuch")
    assert cell.reply["ename"] == "DockerCommandError"
    assert "\n" not in cell.traceback


def test_unloading_takes_the_magics_away(kernel: Kernel) -> None:
    kernel.run("%unload_ext labkit")
    assert "not found" in kernel.run("%docker ps").stderr
    assert complete(kernel, "%docker ren") == []
    assert kernel.run("%load_ext labkit").reply["status"] == "ok"
    assert kernel.run("%docker ps -q").reply["status"] == "ok"
