"""`docker run` and its flags, with the real docker command: what the container sees is what was asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labkit.kernel.cgroups import read_layout
from tests.support.daemon import Daemon

pytestmark = pytest.mark.root
RUN = ("run", "--rm", "--network", "none")


def sh(daemon: Daemon, script: str, *flags: str) -> str:
    """The output of a shell script in a container with these flags."""
    return daemon.out(*RUN, *flags, "busybox", "sh", "-c", script)


def refused(daemon: Daemon, *arguments: str) -> str:
    """The message of a docker command that must fail with 125 or 1, and leave nothing."""
    before = daemon.out("ps", "-aq")
    done = daemon.docker(*arguments, check=False)
    assert done.returncode in (1, 125, 127), done
    assert daemon.out("ps", "-aq") == before
    return done.stderr.decode()


def test_output_streams_and_exit_status(daemon: Daemon) -> None:
    done = daemon.docker(*RUN, "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_input_reaches_the_process_and_ends(daemon: Daemon) -> None:
    data = bytes(range(256)) * 2000
    assert daemon.docker(*RUN, "-i", "busybox", "cat", stdin=data).stdout == data


def test_removed_afterwards(daemon: Daemon) -> None:
    daemon.docker(*RUN, "--name", "once", "busybox", "true")
    assert daemon.request("GET", "/containers/once/json")[0] == 404
    assert list((daemon.data / "containers").iterdir()) == []
    assert daemon.exec_files() == [
        path for path in daemon.exec_files() if path.endswith(("labkit.sock", "spawner.sock", "labkit.pid"))
    ]


def test_environment_directory_and_names(daemon: Daemon) -> None:
    flags = ("-e", "A=1", "-e", "PATH=/bin", "-e", "EMPTY=", "-w", "/new/dir", "-h", "box", "--domainname", "lab.test")
    found = sh(daemon, "pwd; hostname; cat /etc/hostname; cat /proc/sys/kernel/domainname; env", *flags)
    first, *rest = found.split("\n")
    assert [first, *rest[:3]] == ["/new/dir", "box", "box", "lab.test"]
    env = set(rest[3:])
    assert {"A=1", "PATH=/bin", "EMPTY=", "HOSTNAME=box", "HOME=/root"} <= env


def test_environment_passed_on_from_the_client(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HOST", "yes")
    monkeypatch.delenv("NOT_SET", raising=False)
    assert sh(daemon, "echo $FROM_HOST ${NOT_SET-unset}", "-e", "FROM_HOST", "-e", "NOT_SET") == "yes unset"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("1234", "uid=1234 gid=0(root) groups=0(root)"),
        ("bob", "uid=1000(bob) gid=1000(bob) groups=10(wheel),1000(bob)"),
        ("bob:wheel", "uid=1000(bob) gid=10(wheel) groups=10(wheel)"),
        ("1000:77", "uid=1000(bob) gid=77 groups=77"),
    ],
)
def test_user(daemon: Daemon, user: str, expected: str) -> None:
    assert sh(daemon, "id", "--user", user) == expected


def test_user_gets_home_added_groups_and_its_own_streams(daemon: Daemon) -> None:
    script = "echo $HOME; id -G; echo hello > /dev/stdout; grep CapEff /proc/self/status"
    found = sh(daemon, script, "-u", "bob", "--group-add", "999")
    assert found == "/home/bob\n1000 10 999\nhello\nCapEff:\t0000000000000000"


def test_unknown_user_is_refused_in_dockers_words(daemon: Daemon) -> None:
    done = daemon.docker(*RUN, "-u", "nobody-here", "busybox", "true", check=False)
    assert done.returncode == 125
    assert b"unable to find user nobody-here: no matching entries in passwd file" in done.stderr
    assert daemon.out("ps", "-aq") == ""


def test_read_only_root_with_a_writable_tmpfs(daemon: Daemon) -> None:
    script = "touch /x 2>&1; echo $?; touch /run/x; echo $?; grep ' /run ' /proc/mounts"
    found = sh(daemon, script, "--read-only", "--tmpfs", "/run:size=64k,mode=1770").split("\n")
    assert found[0] == "touch: /x: Read-only file system"
    assert found[1:3] == ["1", "0"]
    assert "rw,nosuid,nodev,noexec" in found[3]
    assert "size=64k" in found[3]
    assert "mode=1770" in found[3]


def test_a_tmpfs_may_be_executable(daemon: Daemon) -> None:
    assert sh(daemon, "cp /bin/busybox /x/true; /x/true; echo $?", "--tmpfs", "/x:exec") == "0"


def limit(daemon: Daemon, identity: str, v1: str, v2: str) -> str:
    """A limit file of a container's cgroup; `v1` and `v2` are its names, v1's with its controller."""
    layout = read_layout()
    controller, name = v1.split("/")
    name = name if layout.version == 1 else v2
    return Path(layout.directory(controller, f"/{daemon.cgroup}/{identity}"), name).read_text().strip()


def test_limits_are_in_the_cgroup(daemon: Daemon) -> None:
    flags = ("-m", "64m", "--cpus", "0.5", "--pids-limit", "77", "--cpu-shares", "512", "--cpuset-cpus", "0")
    identity = daemon.out("run", "-d", "--network", "none", *flags, "busybox", "sleep", "1000")
    assert limit(daemon, identity, "memory/memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert limit(daemon, identity, "pids/pids.max", "pids.max") == "77"
    assert limit(daemon, identity, "cpuset/cpuset.cpus", "cpuset.cpus") == "0"
    assert "50000" in limit(daemon, identity, "cpu/cpu.cfs_quota_us", "cpu.max")
    assert limit(daemon, identity, "cpu/cpu.shares", "cpu.weight") in ("512", "20")


def test_too_little_memory_kills_and_is_told(daemon: Daemon) -> None:
    script = "head -c 200000000 /dev/zero | tail"
    flags = ("-m", "16m", "--memory-swap", "16m")
    done = daemon.docker(
        "run", "--name", "hog", "--network", "none", *flags, "busybox", "sh", "-c", script, check=False
    )
    assert done.returncode == 137
    assert daemon.inspect("hog")["State"]["OOMKilled"] is True


def test_more_processes_than_allowed(daemon: Daemon) -> None:
    found = daemon.docker(
        *RUN, "--pids-limit", "3", "busybox", "sh", "-c", "(sleep 1 & sleep 1 & sleep 1 & wait)", check=False
    )
    assert b"can't fork" in found.stderr


def test_ulimits(daemon: Daemon) -> None:
    assert (
        sh(daemon, "ulimit -Sn; ulimit -Hn; ulimit -c", "--ulimit", "nofile=100:200", "--ulimit", "core=0")
        == "100\n200\n0"
    )


DEFAULT = 0xA80425FB  # Docker's fourteen capabilities


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), DEFAULT),
        (("--cap-drop", "ALL"), 0),
        (("--cap-drop", "ALL", "--cap-add", "NET_ADMIN"), 1 << 12),
        (("--cap-add", "CAP_SYS_PTRACE", "--cap-drop", "chown"), DEFAULT & ~1 | 1 << 19),
    ],
)
def test_capabilities(daemon: Daemon, flags: tuple[str, ...], expected: int) -> None:
    found = dict(line.split() for line in sh(daemon, "grep Cap /proc/self/status", *flags).split("\n"))
    sets = {name: int(value, 16) for name, value in found.items()}
    assert sets == {"CapInh:": 0, "CapPrm:": expected, "CapEff:": expected, "CapBnd:": expected, "CapAmb:": 0}


def test_security_options(daemon: Daemon, tmp_path: Path) -> None:
    status = "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"
    assert sh(daemon, status) == "NoNewPrivs:\t0\nSeccomp:\t2"
    assert sh(daemon, status, "--security-opt", "no-new-privileges") == "NoNewPrivs:\t1\nSeccomp:\t2"
    assert sh(daemon, status, "--security-opt", "seccomp=unconfined") == "NoNewPrivs:\t0\nSeccomp:\t0"
    profile = tmp_path / "profile.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}'
    )
    assert "Operation not permitted" in sh(daemon, "mkdir /x 2>&1; true", "--security-opt", f"seccomp={profile}")


def test_the_default_filter_keeps_mounting_out(daemon: Daemon) -> None:
    script = "mount -t tmpfs x /tmp 2>&1; true"
    assert "Operation not permitted" in sh(daemon, script) or "permission denied" in sh(daemon, script)
    assert sh(daemon, "mount -t tmpfs x /tmp && echo yes", "--cap-add", "SYS_ADMIN") == "yes"


def test_device(daemon: Daemon) -> None:
    assert sh(daemon, "ls /dev/kmsg 2>&1 || true") == "ls: /dev/kmsg: No such file or directory"
    script = "stat -c '%t %T' /dev/deep/er; : < /dev/deep/er && echo read; : > /dev/deep/er && echo write"
    flags = ("--cap-add", "SYSLOG", "--device")
    assert sh(daemon, script, *flags, "/dev/kmsg:/dev/deep/er") == "1 b\nread\nwrite"
    denied = daemon.docker(*RUN, *flags, "/dev/kmsg:/dev/deep/er:r", "busybox", "sh", "-c", script, check=False)
    assert denied.stdout == b"1 b\nread\n"
    assert b"Operation not permitted" in denied.stderr


def test_devices_that_were_not_given_cannot_be_used(daemon: Daemon) -> None:
    assert "Operation not permitted" in sh(daemon, "mknod /k c 1 11 && cat /k 2>&1; true")


def test_privileged(daemon: Daemon) -> None:
    script = "grep -E 'CapEff|Seccomp:' /proc/self/status; mount -t tmpfs x /tmp && echo yes; "
    script += "ls /dev/kmsg; touch /proc/sys/vm/swappiness && echo rw"
    own = next(line for line in Path("/proc/self/status").read_text().split("\n") if line.startswith("CapBnd"))
    found = sh(daemon, script, "--privileged").split("\n")
    assert found == [own.replace("CapBnd", "CapEff"), "Seccomp:\t0", "yes", "/dev/kmsg", "rw"]


def test_privileged_shows_devices_in_folders(daemon: Daemon) -> None:
    nested = [
        os.path.join(folder, name)
        for folder, _, names in os.walk("/dev")
        for name in names
        if folder != "/dev"
        and not folder.startswith(("/dev/pts", "/dev/shm", "/dev/mqueue"))
        and not os.path.islink(os.path.join(folder, name))
    ]
    found = sh(daemon, "find /dev -type c -o -type b", "--privileged").split("\n")
    assert set(nested) <= set(found)


def test_host_namespaces(daemon: Daemon) -> None:
    script = "for n in net uts ipc pid; do readlink /proc/self/ns/$n; done"
    found = daemon.out(
        "run", "--rm", "--network=host", "--uts=host", "--ipc=host", "--pid=host", "busybox", "sh", "-c", script
    )
    assert found.split("\n") == [os.readlink(f"/proc/self/ns/{name}") for name in ("net", "uts", "ipc", "pid")]
    own = daemon.out(*RUN, "busybox", "sh", "-c", script).split("\n")
    assert not set(own) & set(found.split("\n"))


def test_the_kernels_secrets_are_hidden(daemon: Daemon) -> None:
    assert sh(daemon, "head -c 1 /proc/kcore | wc -c; ls /sys/firmware | wc -l") == "0\n0"
    assert sh(daemon, "echo 1 > /proc/sys/vm/swappiness; true; touch /sys/x; true") == ""


def test_sysctls_and_shared_memory(daemon: Daemon) -> None:
    script = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax; df -k /dev/shm | tail -1"
    found = sh(
        daemon, script, "--sysctl", "net.core.somaxconn=99", "--sysctl", "kernel.msgmax=9000", "--shm-size", "1m"
    )
    assert found.split()[:4] == ["99", "9000", "shm", "1024"]


def test_hosts_and_resolver(daemon: Daemon) -> None:
    flags = ("--add-host", "other:10.0.0.9", "--dns", "10.0.0.1", "--dns-search", "lab.test")
    found = sh(daemon, "grep other /etc/hosts; grep -v '^#' /etc/resolv.conf | grep .", *flags)
    assert found == "10.0.0.9\tother\nnameserver 10.0.0.1\nsearch lab.test"


def test_entrypoint_and_labels(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "echo", "--entrypoint", "/bin/echo", "-l", "a=b", "busybox", "one", "two words")
    assert daemon.out("start", "-a", "echo") == "one two words"
    found = daemon.inspect("echo")
    assert (found["Path"], found["Args"], found["Config"]["Labels"]) == ("/bin/echo", ["one", "two words"], {"a": "b"})
    assert (
        daemon.out("ps", "-a", "--filter", "label=a=b", "--no-trunc", "--format", "{{.Command}}")
        == "\"/bin/echo one 'two words'\""
    )


def test_requests_that_the_docker_command_would_not_send(daemon: Daemon) -> None:
    for host, reason in (
        ({"RestartPolicy": {"Name": "sometimes"}}, "invalid restart policy: unknown policy 'sometimes'"),
        ({"RestartPolicy": {"Name": "always"}, "AutoRemove": True}, "can't create 'AutoRemove' container"),
        ({"Sysctls": {"kernel.hostname": "x"}}, "is not in a separate kernel namespace"),
        ({"ConsoleSize": [1]}, "ConsoleSize"),
        ({"ConsoleSize": [-1, 70000]}, "ConsoleSize"),
        ({"Ulimits": [{"Name": "nofile", "Soft": 2**70, "Hard": 2**70}]}, ""),
        ({"Ulimits": [{"Name": "nofile", "Soft": 2**63, "Hard": 2**63}]}, ""),
        ({"PidMode": "nonsense"}, "invalid PID mode: nonsense"),
    ):
        status, answer = daemon.request(
            "POST", "/containers/create", {"Image": "busybox", "Cmd": ["x"], "HostConfig": host}
        )
        assert status in (400, 501), (host, answer)
        assert reason in answer["message"]


def test_cidfile(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker("run", "--network", "none", "--name", "cid", "--cidfile", str(tmp_path / "id"), "busybox", "true")
    assert (tmp_path / "id").read_text() == daemon.inspect("cid")["Id"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("-p", "192.0.2.1:8080:80"), "cannot assign requested address"),
        (("-v", "/tmp:/"), "destination can't be '/'"),
        (("--mount", "type=bind,src=/not/there,dst=/x"), "bind source path does not exist: /not/there"),
        (("-m", "1m"), "Minimum memory limit allowed is 6MB"),
        (("-m", "64m", "--memory-swap", "32m"), "Minimum memoryswap limit should be larger than memory limit"),
        (("--cpus", "1000"), "range of CPUs is from 0.01 to"),
        (("--cpuset-cpus", "99"), "Requested CPUs are not available"),
        (("--cap-add", "CAP_NOPE"), 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
        (("--name", "_"), "Invalid container name (_), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        (("--network", "missing"), "network missing not found"),
        (("--security-opt", "nope=1"), "invalid --security-opt 2"),
        (
            ("--device", "/dev/not-there"),
            'error gathering device information while adding custom device "/dev/not-there"',
        ),
        (("-w", "relative"), "the working directory 'relative' is invalid, it needs to be an absolute path"),
        (("--stop-signal", "NOPE"), "Invalid signal: NOPE"),
        (("--cgroup-parent", "../../../../tmp"), "invalid cgroup parent"),
        (("--runtime", "nope"), "unknown or invalid runtime name: nope"),
    ],
)
def test_what_can_not_be_is_refused_with_the_reason(daemon: Daemon, flags: tuple[str, ...], reason: str) -> None:
    assert reason in refused(daemon, "run", "--rm", *flags, "busybox", "true")


def test_name_in_use(daemon: Daemon) -> None:
    identity = daemon.out("create", "--name", "taken", "busybox", "true")
    message = refused(daemon, "create", "--name", "taken", "busybox", "true")
    assert f'The container name "/taken" is already in use by container "{identity}"' in message


def test_unknown_image(daemon: Daemon) -> None:
    status, answer = daemon.request("POST", "/containers/create", {"Image": "nothing:here", "Cmd": ["true"]})
    assert (status, answer) == (404, {"message": "No such image: nothing:here"})


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH: unknown'),
        ("/no/such", 127, 'exec: "/no/such": stat /no/such: no such file or directory: unknown'),
        ("/etc", 126, 'exec: "/etc": permission denied: unknown'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied: unknown'),
    ],
)
def test_unknown_command(daemon: Daemon, command: str, status: int, message: str) -> None:
    done = daemon.docker(*RUN, "busybox", command, check=False)
    assert done.returncode == status
    assert message in done.stderr.decode()
    assert daemon.out("ps", "-aq") == ""


def test_unknown_flag(daemon: Daemon) -> None:
    assert b"unknown flag: --nope" in daemon.docker("run", "--nope", "busybox", check=False).stderr


def test_detached_prints_the_id(daemon: Daemon) -> None:
    identity = daemon.out("run", "-d", "--network", "none", "busybox", "sleep", "1000")
    assert daemon.inspect(identity[:12])["State"]["Running"] is True
    pid = daemon.inspect(identity)["State"]["Pid"]
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\0" + b"1000\0"


def test_no_descriptor_of_the_host_is_open_in_a_container(daemon: Daemon) -> None:
    assert sh(daemon, "ls /proc/self/fd | tr '\\n' ' '") == "0 1 2 3 "
