"""A published port behind a Jupyter server: the link that `labkit.visit` gives leads to the container's page."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from jupyter_server.serverapp import list_running_servers

from labkit.notebook import visiting
from tests.browser.jupyter import jupyterlab
from tests.support.daemon import PATIENCE, running

pytestmark = [pytest.mark.root, pytest.mark.browser, pytest.mark.timeout(240)]
SERVE = "mkdir /www; echo a page out of a container > /www/index.html; exec httpd -f -h /www"


def test_through_the_jupyter_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path / "engine") as daemon, jupyterlab(tmp_path, {"LABKIT_HOST": daemon.host}) as lab:
        daemon.docker("run", "-d", "--name", "page", "-p", "80", "busybox", "sh", "-c", SERVE)
        port = int(daemon.out("port", "page", "80/tcp").splitlines()[0].rpartition(":")[2])
        daemon.docker("exec", "page", "sh", "-c", "until netstat -ltn | grep -q :80; do :; done")
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
        (server,) = list_running_servers()
        links = dict(visiting.links(port, environ={"JPY_PARENT_PID": str(server["pid"])}))
        assert links["through Jupyter"] == f"/proxy/{port}/"
        request = urllib.request.Request(lab.url + links["through Jupyter"])
        request.add_header("Authorization", f"token {lab.token}")
        with urllib.request.urlopen(request, timeout=PATIENCE) as page:
            assert page.read() == b"a page out of a container\n"
        with urllib.request.urlopen(lab.url + links["through Jupyter"], timeout=PATIENCE) as page:
            assert "/login" in page.url  # nobody else gets in this way
