"""`%docker pull` and `%docker login` in a real kernel: one output that moves, ends in a summary, and can be stopped."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.cli.streams import Streams
from labkit.client import Client
from labkit.notebook import progress
from labkit.notebook.progress import CellProgress
from tests.notebook.test_kernel import Kernel, kernel, started
from tests.support.daemon import PATIENCE
from tests.support.registries import PASSWORD, USER, Asked, running_registry, scripted

__all__ = ["kernel", "started"]

Said = tuple[str, dict[str, Any]]


class Lines(Streams):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = ""

    def write(self, stream: int, data: bytes | memoryview) -> None:
        self.written += bytes(data).decode()


def drawn(monkeypatch: pytest.MonkeyPatch, failure: str, *messages: dict[str, Any]) -> tuple[str, list[dict[str, str]]]:
    """What a display writes as lines, and the states that it shows in its output."""
    states: list[dict[str, str]] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            states.append(data)

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        states.append(data)
        return Handle()

    monkeypatch.setattr(progress, "display", display)
    lines = Lines()
    shown = CellProgress(lines)
    for message in messages:
        shown.show(message)
    shown.end(failure)
    return lines.written, states


LAYER = {"id": "aa", "status": "Downloading", "progressDetail": {"current": 500, "total": 1000}}


def test_lines_first_then_layers_then_a_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    written, states = drawn(
        monkeypatch,
        "",
        {"status": "Pulling from x", "id": "latest"},
        LAYER,
        {"status": "Already exists", "id": "bb", "progressDetail": {}},
        {"status": "Pull complete", "id": "aa", "progressDetail": {}},
        {"status": "Digest: sha256:<x>"},
    )
    assert written == "latest: Pulling from x\n"
    assert states[0]["text/plain"] == f"aa: Downloading [{'=' * 25}>{' ' * 25}]     500B/1kB"
    assert '<progress max="1000" value="500"></progress> 500B/1kB' in states[0]["text/html"]
    assert states[-1] == {
        "text/plain": "2 layers: 1 pull complete, 1 already exists (1kB)\nDigest: sha256:<x>",
        "text/html": "2 layers: 1 pull complete, 1 already exists (1kB)<br>Digest: sha256:&lt;x&gt;",
    }


def test_what_was_not_done_stays_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    _, states = drawn(monkeypatch, "<no> space", LAYER)
    assert states[-1]["text/plain"].splitlines()[1] == "Ended before it was done: <no> space"
    assert states[-1]["text/html"].endswith("<p>Ended before it was done: &lt;no&gt; space</p>")


def test_states_are_not_shown_more_often_than_eyes_see(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(drawn(monkeypatch, "", *[LAYER] * 1000)[1]) < 100


def test_no_output_without_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, "", {"stream": "Loaded image: x\n"}) == ("Loaded image: x\n", [])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running.host


def outputs(said: list[Said]) -> list[Said]:
    """What a front end shows in the end: an update takes the place of what it updates."""
    shown: list[Said] = []
    for kind, content in said:
        name = content.get("transient", {}).get("display_id")
        if kind == "update_display_data":
            names = [one.get("transient", {}).get("display_id") for _, one in shown]
            shown[names.index(name)] = ("display_data", content)
        elif kind == "stream" and shown and shown[-1][0] == "stream":
            shown[-1] = (kind, content | {"text": shown[-1][1]["text"] + content["text"]})
        elif kind in ("display_data", "stream"):
            shown.append((kind, content))
    return shown


@pytest.mark.root
def test_a_pull_ends_in_the_same_words_each_time(kernel: Kernel, engine: str, registry: str) -> None:
    name = f"{registry}/lib/bb"
    assert kernel.run(f"%docker tag labbb {name}").reply["status"] == "ok"
    ended = []
    for _ in range(2):
        ended.append(outputs(list(kernel.outputs(kernel.send(f"%docker push {name}")))))
    assert [kind for kind, _ in ended[0]] == ["stream", "display_data"]
    assert "1 layer: 1 pushed" in ended[0][1][1]["data"]["text/plain"]
    assert "1 layer: 1 layer already exists" in ended[1][1][1]["data"]["text/plain"]
    texts = []
    for _ in range(2):
        assert kernel.run(f"%docker rmi {name}").reply["status"] == "ok"
        shown = outputs(list(kernel.outputs(kernel.send(f"%docker pull {name}"))))
        assert [kind for kind, _ in shown] == ["stream", "display_data", "stream"]
        assert shown[0][1]["text"] == "Using default tag: latest\nlatest: Pulling from lib/bb\n"
        assert shown[2][1]["text"] == f"{name}:latest\n"
        texts.append(shown[1][1]["data"])
    assert texts[0] == texts[1]
    plain = texts[0]["text/plain"]
    assert re.fullmatch(
        rf"1 layer: 1 already exists\nDigest: sha256:\w{{64}}\nStatus: Downloaded newer image for {name}:latest", plain
    )
    assert kernel.run(f"%docker rmi {name}").reply["status"] == "ok"


def document(value: Any) -> tuple[bytes, str]:
    body = json.dumps(value).encode()
    return body, "sha256:" + hashlib.sha256(body).hexdigest()


class Slow:
    """A registry that begins to send a layer, and then takes its time; `left` is set when the client goes."""

    def __init__(self) -> None:
        self.left = threading.Event()
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            member = tarfile.TarInfo("noise")
            member.size = 1 << 20
            archive.addfile(member, io.BytesIO(os.urandom(member.size)))
        self.layer = gzip.compress(content.getvalue())
        digest = "sha256:" + hashlib.sha256(self.layer).hexdigest()
        config, config_digest = document(
            {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "a" * 64]}}
        )
        media_type = "application/vnd.oci.image."
        manifest, _ = document(
            {
                "schemaVersion": 2,
                "mediaType": f"{media_type}manifest.v1+json",
                "config": {"mediaType": f"{media_type}config.v1+json", "digest": config_digest, "size": len(config)},
                "layers": [{"mediaType": f"{media_type}layer.v1.tar+gzip", "digest": digest, "size": len(self.layer)}],
            }
        )
        self.documents = {"manifests/latest": manifest, f"blobs/{config_digest}": config}
        self.media_type = f"{media_type}manifest.v1+json"

    def answer(self, asked: Asked) -> None:
        for path, body in self.documents.items():
            if asked.path.endswith(path):
                return asked.say(200, body, Content_Type=self.media_type)
        if asked.path == "/v2/":
            return asked.say(200)
        asked.send_response(200)
        asked.send_header("Content-Length", str(len(self.layer)))
        asked.end_headers()
        asked.wfile.write(self.layer[:300_000])
        try:
            for place in range(300_000, len(self.layer)):
                if self.left.wait(0.05):
                    return None
                asked.wfile.write(self.layer[place : place + 1])
        except (BrokenPipeError, ConnectionResetError):
            self.left.set()
        return None


@pytest.mark.root
def test_an_interrupt_ends_the_pull(kernel: Kernel, engine: str) -> None:
    slow = Slow()
    with scripted(slow.answer) as server:
        sent = kernel.send(f"%docker pull {server.host}/slow")
        said: list[Said] = []
        for kind, content in kernel.outputs(sent):
            said.append((kind, content))
            if kind.endswith("display_data") and "Downloading" in content["data"]["text/plain"]:
                break
        assert said[-1][0].endswith("display_data"), said
        assert re.search(r"Downloading \[=*> +\] +\S+kB/1\.0\d+MB", said[-1][1]["data"]["text/plain"])
        kernel.manager.interrupt_kernel()
        said += list(kernel.outputs(sent))
        assert slow.left.wait(PATIENCE), "the engine goes on with a pull that nobody wants"
    shown = [content for kind, content in outputs(said) if kind == "display_data"]
    assert len(shown) == 1
    assert shown[0]["data"]["text/plain"].endswith("\nEnded before it was done: interrupted")
    assert said[-1][1]["ename"] == "KeyboardInterrupt"
    assert kernel.run("1 + 1").reply["status"] == "ok"


@pytest.mark.root
def test_a_pull_that_fails_fails_the_cell(kernel: Kernel, registry: str) -> None:
    cell = kernel.run(f"%docker pull {registry}/lib/nosuch")
    assert cell.reply["ename"] == "DockerCommandError"
    assert "manifest unknown" in cell.reply["evalue"]
    assert cell.results == []


@pytest.mark.root
def test_login_asks_in_the_cell(kernel: Kernel, tmp_path: Path) -> None:
    with running_registry(tmp_path / "registry", passwords=True) as secure:
        kernel.run(f"os.environ['DOCKER_CONFIG'] = {str(tmp_path)!r}")
        sent = kernel.client.execute(f"%docker login {secure.host}", allow_stdin=True)
        for prompt, hidden, answer in (("Username: ", False, USER), ("Password: ", True, PASSWORD)):
            asked = kernel.client.get_stdin_msg(timeout=PATIENCE)["content"]
            assert (asked["prompt"], asked["password"]) == (prompt, hidden)
            kernel.client.input(answer)
        cell = kernel.finish(sent)
        assert (cell.reply["status"], cell.stdout) == ("ok", "Login Succeeded\n")
        assert PASSWORD not in str(cell)
        cell = kernel.run(f"%docker logout {secure.host}\n%docker login {secure.host}")
        assert cell.reply["evalue"].startswith("Error: nobody can be asked here.")
        kernel.run("del os.environ['DOCKER_CONFIG']")


@pytest.mark.root
def test_the_engine_has_nothing_half_made(kernel: Kernel, engine: str) -> None:
    client = Client(engine)
    names = [name for image in client.get("/images/json") for name in image["RepoTags"]]
    client.close()
    assert not [name for name in names if "slow" in name]
