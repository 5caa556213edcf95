"""Which engine is asked, and that labkit's own daemon starts by itself: once, or with its reason why not.

The embedded default is machine-wide, so these tests run it in a mount namespace with a /run and /var/lib of its own.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from labkit.client.locate import chosen_host, default_socket, locate

PRELUDE = f"""
set -eu
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
labkit() {{ {sys.executable} -m labkit.cli.main "$@"; }}
daemons() {{ for p in /proc/[0-9]*; do
    [ "$(readlink $p/ns/mnt)" = "$(readlink /proc/self/ns/mnt)" ] || continue
    tr '\\0' ' ' <$p/cmdline | grep -o '[m]ain daemon' || true
done; }}
end() {{ pid=$(cat /run/labkit/labkit.pid); kill $pid; tail --pid=$pid -f /dev/null; }}
"""


def alone(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in a mount namespace of its own, where no engine runs yet."""
    return subprocess.run(
        ["unshare", "-m", "--", "sh", "-c", PRELUDE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )


def test_the_host_that_was_asked_for_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///docker")
    assert chosen_host() == "unix:///docker"
    assert locate().host == "unix:///docker"
    monkeypatch.setenv("LABKIT_HOST", "unix:///labkit")
    assert chosen_host() == "unix:///labkit"
    assert chosen_host("unix:///option") == "unix:///option"


def test_the_default_socket_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_socket() == "/run/labkit/labkit.sock"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_socket() == "/run/user/1000/labkit/labkit.sock"


@pytest.mark.root
def test_two_commands_at_once_start_one_daemon() -> None:
    done = alone(
        """
        labkit version --format '{{.Server.Os}}' & first=$!
        labkit version --format '{{.Server.Os}}' & second=$!
        wait $first; wait $second
        daemons
        labkit ps -q
        end
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["linux", "linux", "main daemon", ""]


@pytest.mark.root
def test_a_socket_that_nobody_listens_on_any_more_is_no_obstacle() -> None:
    done = alone(
        """
        labkit ps -q
        kill -9 $(cat /run/labkit/labkit.pid)
        tail --pid=$(cat /run/labkit/labkit.pid) -f /dev/null
        test -S /run/labkit/labkit.sock
        labkit version --format '{{.Server.Os}}'
        end
        """
    )
    assert (done.returncode, done.stdout) == (0, "linux\n"), done.stderr


@pytest.mark.root
def test_a_daemon_that_does_not_start_says_why() -> None:
    done = alone("mount -o remount,ro /var/lib; labkit ps")
    assert done.returncode == 1
    assert done.stderr.startswith("the labkit daemon did not start (exit status 1): labkit daemon: ")
    assert "/var/lib/labkit" in done.stderr
    assert "Its log is /run/labkit/daemon.log" in done.stderr


@pytest.mark.root
def test_nowhere_to_start_is_said() -> None:
    done = alone("mount -o remount,ro /run; labkit ps")
    assert done.returncode == 1
    assert done.stderr == ("no labkit daemon runs, and none can be started: /run/labkit: Read-only file system\n")


@pytest.mark.root
def test_another_host_starts_nothing() -> None:
    done = alone("labkit -H unix:///run/other.sock ps || true; daemons; ls /run | grep -v mount")
    assert done.stdout == ""
    assert done.stderr.startswith("Cannot connect to the Docker daemon at unix:///run/other.sock.")
