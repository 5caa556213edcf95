"""The hub in the place of Docker Hub: served, on disk, gone; and a web server out of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labkit.errors import Conflict, NotFound
from labkit.images.references import parse
from labkit.registry.endpoints import Settings
from labkit.registry.hub import command
from labkit.registry.hub.mirrors import with_hub
from labkit.registry.repository import Repository
from labkit.registry.server.publishing import published, published_text
from tests.registry.server.processes import REPOSITORY
from tests.support.daemon import PATIENCE, Daemon, running

_GET = "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"


@contextmanager
def serving(root: Path, address_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`labkit hub serve` while the block runs."""
    words = ["hub", "serve", "--addr", "127.0.0.1:0", "--root", str(root), "--address-file", str(address_file)]
    process = subprocess.Popen(
        [sys.executable, "-m", "labkit.cli.main", *words],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    try:
        while b"read-only" not in process.stdout.readline():
            assert process.poll() is None
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)


def mirrors(root: Path, address_file: Path, name: str = "busybox", settings: Settings | None = None) -> list[str]:
    with with_hub(parse(name), settings or Settings(), root, address_file) as found:
        return list(found.mirrors)


def test_the_store_on_disk_is_served_for_a_pull(small: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "hub.url"
    with with_hub(parse("busybox"), Settings(("http://first",)), small, nowhere) as settings:
        assert settings.mirrors[0] == "http://first"
        only = Settings(settings.mirrors[1:])
        with Repository(parse("busybox"), only) as repository:
            described = repository.describe("latest")
            assert described
            assert described.digest == {row.name: row.digest for row in command.ls(str(small))}["busybox"]
    assert mirrors(small, nowhere, "nginx") == []
    assert mirrors(small, nowhere, "localhost:5000/busybox") == []
    assert mirrors(small, nowhere, settings=Settings(hub="none")) == []
    assert mirrors(tmp_path / "none", nowhere) == []


def test_a_server_of_this_machine_is_found_as_long_as_it_lives(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "run/hub.url"
    with serving(small, file) as process:
        (url,) = mirrors(tmp_path / "none", file)
        assert url == published_text(file)
        with pytest.raises(Conflict, match=f"{url} is served already"), published(file, "http://other"):
            pass
        command.import_(_exported(small, tmp_path), str(small))  # building and importing go on meanwhile
        process.kill()
        process.wait(PATIENCE)
        assert file.exists()
        assert mirrors(tmp_path / "none", file) == []
    with serving(small, file):
        assert len(mirrors(tmp_path / "none", file)) == 1
    assert not file.exists()


def _exported(root: Path, work: Path) -> str:
    command.export(f"{work}/hub.tar", str(root))
    return f"{work}/hub.tar"


def test_a_teachers_hub(small: Path, tmp_path: Path) -> None:
    with serving(small, tmp_path / "hub.url"):
        url = published_text(tmp_path / "hub.url")
        nowhere = tmp_path / "nowhere"
        assert mirrors(tmp_path / "none", nowhere, settings=Settings(hub=url)) == [url]
        assert mirrors(tmp_path / "none", nowhere, settings=Settings(hub=url.removeprefix("http://"))) == [url]
    assert mirrors(tmp_path / "none", nowhere, settings=Settings(hub=url)) == []  # it doesn't answer any more


def test_no_hub_to_serve(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="labkit hub build"):
        command.serve(root=str(tmp_path / "none"))


@pytest.fixture
def offline(big: Path, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that reaches the hub and nothing else: its Docker Hub is a proxy that isn't there."""
    data = tmp_path / "engine/data"
    data.mkdir(parents=True)
    subprocess.run(["cp", "-a", str(big), str(data / "hub")], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        with running(tmp_path / "engine") as daemon:
            yield daemon


def page(daemon: Daemon, container: str) -> str:
    """What the web server in a container answers, as soon as it does."""
    return daemon.out("exec", container, "bash", "-c", f"until ({_GET}); do :; done 2>/dev/null")


@pytest.mark.root
@pytest.mark.timeout(300)
def test_nginx_without_the_internet(offline: Daemon) -> None:
    offline.docker("run", "-d", "--name", "web", "--network", "none", "nginx")
    answer = page(offline, "web")
    assert "200 OK" in answer
    assert "Welcome to nginx!" in answer
    assert '"GET / HTTP/1.0" 200' in offline.out("logs", "web")
    assert offline.inspect("web")["Config"]["StopSignal"] == "SIGQUIT"
    offline.docker("stop", "web")
    assert offline.inspect("web")["State"]["ExitCode"] == 0
    refused = offline.docker("pull", "nginx:1.27", check=False)
    assert refused.returncode == 1
    assert b"(labkit's hub has nginx:1, nginx:1.22" in refused.stderr
    digest = {row.name: row.digest for row in command.ls(f"{offline.data}/hub")}["nginx"]
    assert offline.out("image", "inspect", "--format", "{{index .RepoDigests 0}}", "nginx") == f"nginx@{digest}"


@pytest.mark.root
def test_build_in_a_daemon_without_a_mirror(offline: Daemon) -> None:
    """What was built is loaded; what can't be built says why."""
    words = [sys.executable, "-m", "labkit.cli.main", "hub", "build"]
    environment = {**offline.environment(), "LABKIT_HOST": offline.host}

    def hub_build(*names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*words, *names], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )

    built = hub_build("hello-world")
    assert "Loaded image: hello-world:latest" in built.stdout
    assert "Hello from labkit!" in offline.out("run", "--rm", "--network", "none", "hello-world")
    hub_build("getting-started")  # on the nginx that is there
    offline.docker("run", "-d", "--name", "site", "--network", "none", "docker/getting-started")
    assert "this page comes out of a container" in page(offline, "site")
    failed = hub_build("redis", "--mirror", "http://127.0.0.1:1/debian")
    assert failed.returncode == 1
    assert "the Debian mirror can't be reached" in failed.stderr
    assert "name the images to build" in hub_build().stderr
    assert os.listdir(f"{offline.data}/hub/.uploads") == ["lock"]
