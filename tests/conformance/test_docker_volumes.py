"""Volumes through the docker command: what survives, what is shared, what is refused, in Docker's words."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, busybox

pytestmark = pytest.mark.root
RUN = ("run", "--rm", "--network", "none")
MOUNTINFO = Path("/proc/self/mountinfo")


@pytest.fixture
def clean(daemon: Daemon) -> Iterator[Daemon]:
    """The shared daemon, without volumes before and after."""
    yield daemon
    daemon.remove_all()
    for name in daemon.out("volume", "ls", "-q").split():
        daemon.docker("volume", "rm", name)
    assert os.listdir(daemon.data / "volumes") == []
    assert str(daemon.data) not in MOUNTINFO.read_text()


@pytest.fixture(scope="module")
def image(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    """busybox with something at /data, a link to it, and a volume of its own."""
    root = tmp_path_factory.mktemp("image")
    subprocess.run(["tar", "-C", root, "-xf", busybox()], check=True)
    (root / "data/deep").mkdir(parents=True)
    (root / "data/file").write_text("of the image")
    os.chown(root / "data/file", 1000, 10)
    (root / "data").chmod(0o1770)
    os.chown(root / "data", 1000, 1000)
    (root / "linked").symlink_to("../../../../data")
    (root / "own").mkdir()
    (root / "own/kept").write_text("kept")
    archive = root.parent / "image.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    shared_daemon.docker("import", "-c", "VOLUME /own", str(archive), "withdata")
    return "withdata"


def mounts(daemon: Daemon, name: str) -> dict[str, dict[str, Any]]:
    return {one["Destination"]: one for one in daemon.inspect(name)["Mounts"]}


def refused(daemon: Daemon, *words: str) -> str:
    """What docker says of something that isn't possible."""
    done = daemon.docker(*words, check=False)
    assert done.returncode in (1, 125, 127), (words, done)
    return done.stderr.decode().removeprefix("docker: ").split("\n")[0].removeprefix("Error response from daemon: ")


def test_a_named_volume_outlives_its_containers(clean: Daemon) -> None:
    clean.docker(*RUN, "-v", "site:/srv", "busybox", "sh", "-c", "echo kept > /srv/file")
    assert clean.out(*RUN, "-v", "site:/srv:ro", "busybox", "cat", "/srv/file") == "kept"
    assert clean.out("volume", "ls", "-q") == "site"
    (found,) = json.loads(clean.out("volume", "inspect", "site"))
    assert Path(found["Mountpoint"], "file").read_text() == "kept\n"
    assert (found["Driver"], found["Scope"], found["Labels"], found["Options"]) == ("local", "local", None, None)


def test_what_is_read_only(clean: Daemon) -> None:
    for mount in (("-v", "site:/srv:ro"), ("--mount", "type=volume,src=site,dst=/srv,readonly")):
        done = clean.docker(*RUN, *mount, "busybox", "touch", "/srv/file", check=False)
        assert (done.returncode, b"Read-only file system" in done.stderr) == (1, True)
    assert clean.docker(*RUN, "--read-only", "-v", "site:/srv", "busybox", "touch", "/srv/file").returncode == 0


def test_an_empty_volume_gets_what_the_image_has_once(clean: Daemon, image: str) -> None:
    script = "stat -c '%a %u %g' /srv/. /srv/file; ls /srv/"
    for place in ("/data", "/linked"):
        found = clean.out(*RUN, "-v", f"v{place[1:]}:{place}", image, "sh", "-c", script.replace("/srv", place))
        assert found.splitlines() == ["1770 1000 1000", "644 1000 10", "deep", "file"]
    clean.docker(*RUN, "-v", "vdata:/data", image, "rm", "/data/file")
    assert clean.out(*RUN, "-v", "vdata:/data", image, "ls", "/data") == "deep"
    assert clean.out(*RUN, "-v", "other:/data:nocopy", image, "ls", "/data") == ""
    nocopy = "type=volume,src=third,dst=/data,volume-nocopy"
    assert clean.out(*RUN, "--mount", nocopy, image, "ls", "/data") == ""


def test_an_images_volumes_go_with_their_containers(clean: Daemon, image: str) -> None:
    clean.docker("run", "--network", "none", "--name", "one", "-v", "/mine", "-v", "site:/srv", image, "true")
    own, mine = mounts(clean, "one")["/own"], mounts(clean, "one")["/mine"]
    assert Path(own["Source"], "kept").read_text() == "kept"
    assert {name: own[name] for name in ("Type", "Driver", "Mode", "RW", "Propagation")} == {
        "Type": "volume", "Driver": "local", "Mode": "", "RW": True, "Propagation": "",
    }  # fmt: skip
    assert len(own["Name"]) == len(mine["Name"]) == 64
    (inspected,) = json.loads(clean.out("volume", "inspect", own["Name"]))
    assert inspected["Labels"] == {"com.docker.volume.anonymous": ""}
    clean.docker("rm", "one")
    assert len(clean.out("volume", "ls", "-q").split()) == 3
    clean.docker("run", "--network", "none", "--name", "two", "-v", f"{mine['Name']}:/mine", "-v", "/x", image, "true")
    clean.docker("rm", "-v", "two")
    assert set(clean.out("volume", "ls", "-q").split()) == {own["Name"], mine["Name"], "site"}
    clean.docker(*RUN, image, "true")
    assert set(clean.out("volume", "ls", "-q").split()) == {own["Name"], mine["Name"], "site"}
    assert clean.out("volume", "prune", "-f").splitlines()[1:3] == sorted([own["Name"], mine["Name"]])
    assert clean.out("volume", "prune", "-af").splitlines()[1] == "site"


def test_volumes_of_another_container(clean: Daemon, image: str, tmp_path: Path) -> None:
    binds = ("-v", "site:/srv", "-v", f"{tmp_path}:/host")
    clean.docker("run", "-d", "--network", "none", "--name", "first", *binds, image, "sleep", "1000")
    clean.docker("exec", "first", "sh", "-c", "echo shared > /own/new")
    second = ("run", "--network", "none", "--name", "second", "--volumes-from", "first:ro", "-v", "mine:/srv", image)
    done = clean.docker(*second, "sh", "-c", "cat /own/new; touch /own/x; touch /srv/x", check=False)
    assert done.stdout == b"shared\n"
    assert b"/own/x: Read-only file system" in done.stderr
    found = {place: (one.get("Name", one["Source"]), one["RW"]) for place, one in mounts(clean, "second").items()}
    own = mounts(clean, "first")["/own"]["Name"]
    assert found == {"/srv": ("mine", True), "/host": (str(tmp_path), False), "/own": (own, False)}
    clean.docker("rm", "-fv", "first")
    assert own in clean.out("volume", "ls", "-q")  # the second one has it still
    clean.docker("rm", "-v", "second")
    assert set(clean.out("volume", "ls", "-q").split()) == {"mine", "site"}


def test_what_is_in_use_is_protected(clean: Daemon) -> None:
    clean.docker("create", "--network", "none", "--name", "user", "-v", "site:/srv", "busybox", "true")
    identity = clean.inspect("user")["Id"]
    assert refused(clean, "volume", "rm", "site") == f"remove site: volume is in use - [{identity}]"
    assert refused(clean, "volume", "rm", "-f", "site") == f"remove site: volume is in use - [{identity}]"
    assert "site" not in clean.out("volume", "prune", "-af")
    clean.docker("rm", "user")
    assert clean.out("volume", "rm", "site") == "site"
    assert refused(clean, "volume", "rm", "site") == "get site: no such volume"
    assert clean.docker("volume", "rm", "-f", "site").returncode == 0


def test_binds(clean: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the host")
    script = "cat /a/file /b; touch /a/made; touch /c/x || echo $?"
    binds = ("-v", f"{tmp_path}:/a", "-v", f"{tmp_path}/file:/b:ro", "-v", f"{tmp_path}/new/dir:/c:ro")
    found = clean.docker(*RUN, *binds, "busybox", "sh", "-c", script)
    assert found.stdout == b"of the hostof the host1\n"
    assert (tmp_path / "made").exists()
    assert (tmp_path / "new/dir").is_dir()
    mount = f"type=bind,src={tmp_path}/missing,dst=/a"
    assert refused(clean, *RUN, "--mount", mount, "busybox", "true") == (
        f'invalid mount config for type "bind": bind source path does not exist: {tmp_path}/missing'
    )
    assert not (tmp_path / "missing").exists()


def test_a_bind_source_that_vanishes(clean: Daemon, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    clean.docker(
        "create", "--network", "none", "--name", "late", "--mount", f"type=bind,src={source},dst=/a", "busybox", "true"
    )
    source.rmdir()
    assert refused(clean, "start", "late").endswith(
        f'error mounting "{source}" to rootfs at "/a": no such file or directory'
    )
    assert clean.inspect("late")["State"]["Status"] == "created"
    source.mkdir()
    clean.docker("start", "late")


def test_a_directory_over_a_file(clean: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for source, target in ((tmp_path, "/etc/passwd"), (tmp_path / "file", "/etc")):
        said = refused(clean, *RUN, "-v", f"{source}:{target}", "busybox", "true")
        assert f'error mounting "{source}" to rootfs at "{target}"' in said
        assert "not a directory: unknown: Are you trying to mount a directory onto a file (or vice-versa)?" in said


def test_a_users_mount_over_the_engines_files(clean: Daemon, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("1.2.3.4 mine\n")
    assert clean.out(*RUN, "-v", f"{tmp_path}/hosts:/etc/hosts", "busybox", "cat", "/etc/hosts") == "1.2.3.4 mine"
    shm = clean.out(*RUN, "-v", f"{tmp_path}:/dev/shm", "busybox", "ls", "/dev/shm")
    assert shm == "hosts"
    found = clean.docker(*RUN, "--read-only", "busybox", "touch", "/etc/hosts", check=False)
    assert b"Read-only file system" in found.stderr


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        (("--tmpfs", "/x"), {"nosuid", "nodev", "noexec"}),
        (("--tmpfs", "/x:exec,size=1m,mode=1700"), {"nosuid", "nodev", "size=1024k", "mode=1700"}),
        (
            ("--mount", "type=tmpfs,dst=/x,tmpfs-size=2m,tmpfs-mode=700"),
            {"nosuid", "nodev", "noexec", "size=2048k", "mode=700"},
        ),
    ],
)
def test_tmpfs(clean: Daemon, mount: tuple[str, str], expected: set[str]) -> None:
    line = clean.out(*RUN, *mount, "busybox", "grep", " /x ", "/proc/mounts").split()
    assert line[2] == "tmpfs"
    assert set(line[3].split(",")) - {"rw", "relatime", "inode64"} == expected


def test_options_of_a_volume(clean: Daemon) -> None:
    clean.docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,mode=700", "scratch")
    place = f"{clean.data}/volumes/scratch/_data"
    for name in ("one", "two"):
        clean.docker("run", "-d", "--network", "none", "--name", name, "-v", "scratch:/s", "busybox", "sleep", "1000")
    clean.docker("exec", "one", "sh", "-c", "echo shared > /s/file")
    assert clean.out("exec", "two", "sh", "-c", "cat /s/file; stat -c %a /s") == "shared\n700"
    assert MOUNTINFO.read_text().count(f" {place} ") == 1
    clean.docker("rm", "-f", "one")
    assert MOUNTINFO.read_text().count(f" {place} ") == 1
    clean.docker("rm", "-f", "two")
    assert place not in MOUNTINFO.read_text()
    assert clean.out(*RUN, "-v", "scratch:/s", "busybox", "ls", "/s") == ""


def test_a_volume_that_is_a_bind(clean: Daemon, image: str, tmp_path: Path) -> None:
    """It is filled, too, where it is empty."""
    options = ("-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}")
    clean.docker("volume", "create", *options, "there")
    assert clean.out(*RUN, "-v", "there:/data", image, "cat", "/data/file") == "of the image"
    assert (tmp_path / "file").read_text() == "of the image"


def test_a_volume_that_can_not_be_mounted(clean: Daemon) -> None:
    options = ("-o", "type=nfs", "-o", "o=addr=127.0.0.1,password=secret", "-o", "device=:/x")
    clean.docker("volume", "create", *options, "net")
    said = refused(clean, *RUN, "-v", "net:/n", "busybox", "true")
    place = f"{clean.data}/volumes/net/_data"
    assert said.startswith(f"error while mounting volume '{place}': failed to mount local volume: mount :/x:{place}")
    assert "password=********" in said
    assert "secret" not in said
    assert place not in MOUNTINFO.read_text()


def test_a_part_of_a_volume(clean: Daemon) -> None:
    script = "mkdir -p /v/a/b; echo part > /v/a/b/file; ln -s / /v/out"
    clean.docker(*RUN, "-v", "site:/v", "busybox", "sh", "-c", script)
    part = "type=volume,src=site,dst=/p,volume-subpath="
    assert clean.out(*RUN, "--mount", f"{part}a/b", "busybox", "cat", "/p/file") == "part"
    place = f"{clean.data}/volumes/site/_data"
    assert refused(clean, *RUN, "--mount", f"{part}none", "busybox", "true") == (
        f"cannot access path {place}/none: no such file or directory"
    )
    assert "escapes the base directory" in refused(clean, *RUN, "--mount", f"{part}out/etc", "busybox", "true")


def test_paths_that_another_container_changes_meanwhile(clean: Daemon) -> None:
    """A mount point in a shared volume, which turns into a link and back: nothing leaves the container."""
    flip = "while :; do ln -s ../../../../../../../.. /v/sub; rm /v/sub; mkdir -p /v/sub/tmp; rm -r /v/sub; done"
    hostile = ("run", "-d", "--network", "none", "--name", "hostile", "-v", "site:/v", "busybox", "sh", "-c", flip)
    clean.docker(*hostile)
    started = 0
    for number in range(30):
        binds = ("-v", "site:/v", "-v", f"inner{number}:/v/sub/tmp/labkit-astray")
        done = clean.docker(*RUN, *binds, "busybox", "true", check=False)
        started += done.returncode == 0
        assert done.returncode in (0, 125, 127), done
    assert started
    assert not Path("/tmp/labkit-astray").exists()
    assert "labkit-astray" not in MOUNTINFO.read_text()


@pytest.fixture
def shared_place(tmp_path: Path) -> Iterator[Path]:
    """A mount of the host that passes its mounts on."""
    place = tmp_path / "shared"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    subprocess.run(["mount", "--make-shared", place], check=True)
    yield place
    subprocess.run(["umount", "-R", place], check=True)


def test_propagation(clean: Daemon, shared_place: Path) -> None:
    (shared_place / "in").mkdir()
    for mode in ("rprivate", "rslave", "rshared"):
        options = ("-v", f"{shared_place}:/m:{mode}", "--privileged")
        clean.docker("run", "-d", "--network", "none", "--name", mode, *options, "busybox", "sleep", "1000")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", shared_place / "in"], check=True)
    (shared_place / "in/file").write_text("x")
    seen = {mode: clean.out("exec", mode, "ls", "/m/in") for mode in ("rprivate", "rslave", "rshared")}
    assert seen == {"rprivate": "", "rslave": "file", "rshared": "file"}
    for mode in ("rslave", "rshared"):
        clean.docker("exec", mode, "sh", "-c", f"mkdir /m/{mode}; mount -t tmpfs tmpfs /m/{mode}")
    present = MOUNTINFO.read_text()
    assert (f"{shared_place}/rshared " in present, f"{shared_place}/rslave " in present) == (True, False)


def test_propagation_needs_a_mount_that_passes_on(clean: Daemon, tmp_path: Path) -> None:
    place = tmp_path / "private"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    subprocess.run(["mount", "--make-private", place], check=True)
    try:
        for mode, wanted in (("rshared", "a shared mount"), ("slave", "a shared or slave mount")):
            said = refused(clean, *RUN, "-v", f"{place}:/m:{mode}", "busybox", "true")
            assert said == f"path {place} is mounted on {place} but it is not {wanted}"
    finally:
        subprocess.run(["umount", place], check=True)


def test_read_only_holds_for_what_is_mounted_inside(clean: Daemon, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inner], check=True)
    try:
        source = f"type=bind,src={tmp_path},dst=/m,readonly"
        for more, works in (("", False), (",bind-recursive=writable", True), (",bind-recursive=readonly", False)):
            propagation = ",bind-propagation=rprivate" if "readonly" in more else ""
            mount = ("--mount", f"{source}{more}{propagation}")
            done = clean.docker(*RUN, *mount, "busybox", "touch", "/m/inner/x", check=False)
            assert (done.returncode == 0) == works, (more, done)
        disabled = ("--mount", f"{source},bind-recursive=disabled")
        assert clean.out(*RUN, *disabled, "busybox", "ls", "/m/inner") == ""
    finally:
        subprocess.run(["umount", inner], check=True)


def test_events(clean: Daemon) -> None:
    begin = clean.out("info", "--format", "{{.SystemTime}}")
    clean.docker("volume", "create", "site")
    clean.docker(*RUN, "--name", "user", "-v", "site:/s:ro", "busybox", "true")
    clean.docker("volume", "rm", "site")
    clean.docker("volume", "prune", "-f")
    template = "{{.Type}} {{.Action}} {{.Actor.ID}} {{json .Actor.Attributes}}"
    filters = ("--filter", "type=volume")
    until = clean.out("info", "--format", "{{.SystemTime}}")
    lines = clean.out("events", *filters, "--since", begin, "--until", until, "--format", template).splitlines()
    events = [(*line.split(" ", 3)[1:3], json.loads(line.split(" ", 3)[3])) for line in lines]
    assert [event[:2] for event in events] == [
        ("create", "site"), ("mount", "site"), ("unmount", "site"), ("destroy", "site"), ("prune", ""),
    ]  # fmt: skip
    attributes = events[1][2]
    assert len(attributes.pop("container")) == 64
    assert attributes == {"destination": "/s", "driver": "local", "propagation": "", "read/write": "false"}
    assert events[2][2].keys() == {"container", "driver"}
    assert events[4][2] == {"reclaimed": "0"}


def test_lists(clean: Daemon, tmp_path: Path) -> None:
    clean.docker("create", "--name", "user", "-v", "site:/s", "-v", f"{tmp_path}:/b", "busybox", "true")
    clean.docker("create", "--name", "other", "busybox", "true")
    assert clean.out("ps", "-a", "--format", "{{.Mounts}}|{{.LocalVolumes}}", "--no-trunc").splitlines() == [
        "|0", f"{tmp_path},site|1",
    ]  # fmt: skip
    for value in ("site", "/s", "/b", str(tmp_path)):
        assert clean.out("ps", "-a", "--filter", f"volume={value}", "--format", "{{.Names}}") == "user"
    assert clean.out("ps", "-aq", "--filter", "volume=none") == ""
    Path(mounts(clean, "user")["/s"]["Source"], "file").write_bytes(bytes(100))
    usage = clean.request("GET", "/system/df?type=volume")[1]["Volumes"]
    assert [(one["Name"], one["UsageData"]) for one in usage] == [("site", {"RefCount": 1, "Size": 100})]
    assert clean.out("info", "--format", "{{.Plugins.Volume}}") == "[local]"


def test_the_bundle_is_a_standard_one(clean: Daemon, tmp_path: Path) -> None:
    binds = ("-v", "site:/srv", "-v", f"{tmp_path}:/host:ro", "--tmpfs", "/t:size=1m")
    clean.docker("run", "-d", "--network", "none", "--name", "box", *binds, "busybox", "sleep", "1000")
    bundle = json.loads((clean.run / "bundles" / clean.inspect("box")["Id"] / "config.json").read_text())
    found = {one["destination"]: one for one in bundle["mounts"]}
    assert found["/srv"]["source"] == f"{clean.data}/volumes/site/_data"
    assert found["/host"] == {
        "destination": "/host", "type": "bind", "source": str(tmp_path), "options": ["rbind", "rro", "rprivate"],
    }  # fmt: skip
    assert found["/t"]["type"] == "tmpfs"


def test_explained(clean: Daemon, image: str, tmp_path: Path) -> None:
    """The trace says where each mount comes from, and what was copied."""
    told: set[str] = set()
    create = ("create", "--network", "none", "--name", "told", "-v", "site:/data", "-v", f"{tmp_path}:/host:ro")
    for words in ((*create, image, "true"), ("start", "-a", "told")):
        clean.docker(*words)
        trace = clean.request("GET", "/labkit/traces/last")[1]
        told |= {op["describe"] for plan in trace["plans"] for op in plan["operations"]}
    place = f"{clean.data}/volumes/site"
    assert f"fill {place}/_data, if it is empty, with what the image has at /data" in told
    assert f"show the host's {place}/_data at /data" in told
    assert f"show the host's {tmp_path} at /host, read-only" in told


def test_copies_of_a_container_that_does_not_run(clean: Daemon, image: str, tmp_path: Path) -> None:
    clean.docker("create", "--name", "still", "-v", "site:/data", "-v", f"{tmp_path}:/host:ro", image, "true")
    (tmp_path / "here").write_text("of the host")
    clean.docker("cp", "still:/host/here", str(tmp_path / "copy"))
    clean.docker("cp", "still:/data/file", str(tmp_path / "file"))
    assert ((tmp_path / "copy").read_text(), (tmp_path / "file").read_text()) == ("of the host", "of the image")
    clean.docker("cp", str(tmp_path / "copy"), "still:/data/new")
    assert Path(mounts(clean, "still")["/data"]["Source"], "new").read_text() == "of the host"
    done = clean.docker("cp", str(tmp_path / "copy"), "still:/host/x", check=False)
    assert b"mounted volume is marked read-only" in done.stderr
