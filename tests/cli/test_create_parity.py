"""The same options to `labkit create` and `docker create`: the same request, whatever an engine makes of it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.cli import recorded

OPTIONS = """
-it -e A=1 -e B= -l x=y -l z --name web -h box --domainname lab -u 1:1 -w /t --entrypoint sh
-a stdin -a stdout
-m 64m --memory-swap 128m --memory-reservation 32m --cpus 0.5 --cpu-shares 5 --cpuset-cpus 0,1 --pids-limit 50
--cpu-period 1000 --cpu-quota 2000 --blkio-weight 100 --kernel-memory 4m --oom-score-adj 100 --oom-kill-disable -m 1g
--cap-add NET_ADMIN --cap-add sys_time --cap-drop MKNOD --privileged --security-opt no-new-privileges
--security-opt systempaths=unconfined --security-opt seccomp=unconfined --security-opt label:disable
--read-only --tmpfs /t:size=1m --tmpfs /u -v /tmp:/host:ro -v ./here:/there -v named:/n -v /anonymous
--mount type=tmpfs,dst=/m,tmpfs-size=1m,tmpfs-mode=1777 --mount type=bind,src=/a,dst=/b,ro,bind-propagation=rshared
--mount src=vol,dst=/v,volume-nocopy,volume-label=a=b,volume-driver=d,volume-opt=o=x
--ulimit nofile=10:20 --ulimit core=-1 --sysctl net.ipv4.ip_forward=1 --group-add 7 --init
--restart on-failure:2
--restart unless-stopped
--stop-signal USR1 --stop-timeout 3
--device /dev/zero --device /dev/null:/dev/x:r --device-cgroup-rule 'c 1:3 rwm'
--device-read-bps /dev/sda:1mb --device-write-iops /dev/sda:100 --blkio-weight-device /dev/sda:100
--shm-size 1m --ipc private --uts host --pid host --userns host --cgroupns private --cgroup-parent x --runtime r
--log-driver json-file --log-opt max-size=1m --storage-opt size=1g --isolation default
--health-cmd true --health-interval 5s --health-timeout 1m30s --health-retries 3 --health-start-period 100ms
--no-healthcheck
--dns 1.2.3.4 --dns-search lab --dns-opt ndots:1 --add-host a:1.2.3.4 --add-host b=::1 --link c:d
-p 80 -p 8080:81 -p 127.0.0.1:8082:82/udp -p 9000-9001:90-91 -p [::1]:1:1 --expose 100-101 --expose 53/udp -P
-p target=80,published=8080,protocol=udp
--network none
--network host
--network lab --network-alias x --ip 10.0.0.5 --ip6 fe80::1 --link-local-ip 10.0.0.9 --link c:d
--network name=lab,alias=a,ip=10.0.0.5,driver-opt=k=v --network other
--network name=lab,alias=A,alias=b,ip=10.0.0.5,ip6=fe80::1,mac-address=92:d0:c6:0a:29:33,gw-priority=-3
--network name=lab,link-local-ip=10.0.0.9 --network name=other,gw-priority=7,driver-opt=A.b=c --network-alias x
--network lab --network other --ip 10.0.0.5 --mac-address 92:d0:c6:0a:29:33 --link c
--network container:web
--network bridge --link c:d --link e
--net host --hostname box
-p 80:80 -p 80:80/udp -p 127.0.0.1::81 -p 8000-8010:82 -p [fe80::1]:1:1 -p fe80::2:1:1 -p 90-91 -p 0:1 -p 5/sctp
-p target=80 -p published=81-83,target=81 -p target=82,published=84,protocol=udp,mode=host --expose 80 --expose 1/UDP
--dns 1.2.3.4 --dns ::1 --dns-search . --dns-search a.b. --dns-option ndots:1 --dns-opt rotate
--add-host a=1.2.3.4 --add-host b:[::1] --add-host c:host-gateway --add-host d=::2 --domainname lab
--mac-address 92:d0:c6:0a:29:33 --annotation a=b --volumes-from other --volume-driver d --label com.x.y=z=w
--gpus all
--gpus device=0,driver=nvidia
--entrypoint=
"""


class Recorder(BaseHTTPRequestHandler):
    """Answers what a client asks before it creates a container, and keeps the body with which it does."""

    bodies: list[Any] = []

    def do_HEAD(self) -> None:
        self._answer(200, b"")

    def do_GET(self) -> None:
        self._answer(200, b'{"OSType":"linux"}')

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(201, b'{"Id":"x","Warnings":[]}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        headers = {"Api-Version": "1.50", "Ostype": "linux", "Content-Type": "application/json"}
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is its own."""


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        Recorder.bodies.clear()
        yield Recorder.bodies
        server.shutdown()
        thread.join()


def meaning(value: Any) -> Any:
    """The body without what says nothing: Go writes out every field, whether it was asked for or not."""
    if isinstance(value, dict):
        return {name: kept for name, field in value.items() if (kept := meaning(field)) not in (None, "", 0, {}, [])}
    if isinstance(value, list):
        return [meaning(item) for item in value]
    return value


def request_of(command: list[str], options: str, bodies: list[Any]) -> Any:
    """The body with which the command asks for a container, without what it keeps in maps: in no order."""
    words = [*command, "create", *shlex.split(options), "image", "command", "-x"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "x\n"), done.stderr
    body = json.loads(json.dumps(meaning(bodies.pop())).replace(os.getcwd(), "<cwd>"))
    body["HostConfig"].get("Binds", []).sort()
    body.get("Env", []).sort()
    return body


@pytest.mark.parametrize("options", OPTIONS.strip().splitlines())
def test_the_request_is_dockers(recorder: list[Any], options: str) -> None:
    if recorded.is_installed():
        theirs = request_of(["docker"], options, recorder)
        theirs["HostConfig"].pop("MemorySwappiness")  # -1 there: not set
        recorded.check("create", options, theirs)
    ours = request_of([sys.executable, "-m", "labkit.cli.main"], options, recorder)
    assert ours == recorded.answers("create")[options]
