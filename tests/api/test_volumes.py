"""The volume routes as clients see them: statuses, fields, filters, bad input; and through the Docker SDK."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import docker
import pytest
from docker.errors import APIError, NotFound

from tests.support.daemon import Daemon
from tests.support.fixtures import busybox_archive, daemon, shared_daemon

__all__ = ["busybox_archive", "daemon", "shared_daemon"]

pytestmark = pytest.mark.root
ANONYMOUS = {"com.docker.volume.anonymous": ""}


@pytest.fixture
def clean(daemon: Daemon) -> Iterator[Daemon]:
    yield daemon
    daemon.remove_all()
    for one in daemon.request("GET", "/volumes")[1]["Volumes"]:
        assert daemon.request("DELETE", f"/volumes/{one['Name']}")[0] == 204


def create(daemon: Daemon, **body: Any) -> tuple[int, Any]:
    return daemon.request("POST", "/volumes/create", body)


def named(daemon: Daemon, **filters: list[str]) -> list[str]:
    status, answer = daemon.request("GET", f"/volumes?filters={quote(json.dumps(filters))}")
    assert status == 200, answer
    assert answer["Warnings"] is None
    return [one["Name"] for one in answer["Volumes"]]


def test_create_and_inspect(clean: Daemon) -> None:
    labels, options = {"b": "2", "a": "1"}, {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
    status, made = create(clean, Name="site", Labels=labels, DriverOpts=options)
    assert (status, clean.request("GET", "/volumes/site")) == (201, (200, made))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made.pop("CreatedAt"))
    assert list(made["Labels"]) == ["a", "b"]
    assert made == {
        "Driver": "local", "Labels": labels, "Mountpoint": f"{clean.data}/volumes/site/_data", "Name": "site",
        "Options": options, "Scope": "local",
    }  # fmt: skip
    assert create(clean, Name="site", Driver="local")[1]["Labels"] == labels  # it is there: as it is


def test_what_was_not_given_is_null(clean: Daemon) -> None:
    status, made = create(clean)
    assert (status, made["Labels"], made["Options"]) == (201, ANONYMOUS, None)
    assert re.fullmatch("[0-9a-f]{64}", made["Name"])
    assert [create(clean, Name=name, Labels=given)[1]["Labels"] for name, given in (("n1", None), ("n2", {}))] == [
        None,
        {},
    ]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (
            {"Name": "a"},
            400,
            "create a: volume name is too short, names should be at least two alphanumeric characters",
        ),
        (
            {"Name": "../x"},
            400,
            'create ../x: "../x" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" '
            "are allowed. If you intended to pass a host directory, use absolute path",
        ),
        ({"Name": "ok", "DriverOpts": {"bad": "1"}}, 400, 'create ok: invalid option: "bad"'),
        (
            {"Name": "ok", "Driver": "nfs"},
            404,
            'create ok: error looking up volume plugin nfs: plugin "nfs" not found',
        ),
        ({"Name": "ok", "ClusterVolumeSpec": {}}, 400, "labkit has no cluster volumes: they are part of Swarm"),
        (
            {"Name": 1},
            400,
            "invalid JSON: json: cannot unmarshal number into Go struct field CreateOptions.Name of type string",
        ),
    ],
)
def test_what_can_not_be_made(clean: Daemon, body: dict[str, Any], status: int, message: str) -> None:
    assert create(clean, **body) == (status, {"message": message})
    assert named(clean) == []


def test_filters(clean: Daemon) -> None:
    for name, labels in (("site", {"a": "1"}), ("web-site", {"a": "2"}), ("other", {})):
        create(clean, Name=name, Labels=labels)
    clean.docker("create", "--name", "user", "-v", "site:/s", "busybox", "true")
    for filters, expected in (
        ({}, ["other", "site", "web-site"]),
        ({"name": ["site"]}, ["site", "web-site"]),
        ({"name": ["web", "other"]}, ["other", "web-site"]),
        ({"label": ["a"]}, ["site", "web-site"]),
        ({"label": ["a=2"]}, ["web-site"]),
        ({"label": ["a=2", "a=1"]}, []),
        ({"driver": ["local"]}, ["other", "site", "web-site"]),
        ({"driver": ["nfs"]}, []),
        ({"dangling": ["true"]}, ["other", "web-site"]),
        ({"dangling": ["0"]}, ["site"]),
        ({"dangling": ["1"], "name": ["web"]}, ["web-site"]),
    ):
        assert named(clean, **filters) == expected, filters


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ('/volumes?filters={"bad":["x"]}', "invalid filter 'bad'"),
        ('/volumes?filters={"dangling":["x"]}', "invalid filter 'dangling=[x]'"),
        ('/volumes?filters={"dangling":["1","0"]}', "invalid filter 'dangling=[1 0]'"),
        ("/volumes?filters=x", "invalid filters: JSON is malformed: invalid character (byte 0)"),
    ],
)
def test_filters_that_are_none(clean: Daemon, path: str, message: str) -> None:
    assert clean.request("GET", quote(path, safe="/?=&")) == (400, {"message": message})


def test_remove(clean: Daemon) -> None:
    create(clean, Name="site")
    assert clean.request("DELETE", "/volumes/site") == (204, None)
    missing = (404, {"message": "get site: no such volume"})
    assert clean.request("DELETE", "/volumes/site") == clean.request("GET", "/volumes/site") == missing
    assert clean.request("DELETE", "/volumes/site?force=1") == (204, None)
    assert clean.request("DELETE", "/volumes/..%2Fsite") == (404, {"message": "get ../site: no such volume"})


def prune(daemon: Daemon, version: str = "", **filters: list[str]) -> tuple[int, Any]:
    return daemon.request("POST", f"{version}/volumes/prune?filters={quote(json.dumps(filters))}")


def test_prune(clean: Daemon) -> None:
    anonymous = create(clean, Labels={"keep": ""})[1]["Name"]
    second = create(clean)[1]["Name"]
    for name in ("site", "used"):
        create(clean, Name=name)
    clean.docker("create", "--name", "user", "-v", "used:/s", "busybox", "true")
    assert prune(clean, "", **{"label!": ["keep"]}) == (200, {"VolumesDeleted": [second], "SpaceReclaimed": 0})
    assert prune(clean)[1]["VolumesDeleted"] == [anonymous]
    assert prune(clean) == (200, {"VolumesDeleted": [], "SpaceReclaimed": 0})
    assert prune(clean, label=["none"], all=["1"])[1]["VolumesDeleted"] == []
    assert prune(clean, all=["true"])[1]["VolumesDeleted"] == ["site"]
    create(clean, Name="old")
    assert prune(clean, "/v1.41")[1]["VolumesDeleted"] == ["old"]  # before 1.42 all were pruned
    assert named(clean) == ["used"]
    assert prune(clean, until=["1h"]) == (400, {"message": "invalid filter 'until'"})
    assert prune(clean, all=["x"]) == (400, {"message": "invalid filter 'all=[x]'"})


CREATE: dict[str, Any] = {"Image": "busybox", "Cmd": ["true"]}


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"Binds": ["ab:/b:rx"]}, "invalid mode: rx"),
        ({"Binds": ["/a:/b", "v1:/b"]}, "Duplicate mount point: /b"),
        ({"Binds": ["a/b:/b"]}, r'create a/b: "a/b" includes invalid characters for a local volume name.*'),
        ({"Mounts": [{"Type": "x", "Target": "/y"}]}, 'invalid mount config for type "x": mount type unknown'),
        ({"Mounts": [{"Type": 1}]}, r"invalid HostConfig.Mounts: Expected `str`, got `int` - at `\$\[0\].Type`"),
        ({"VolumesFrom": ["nobody"]}, "No such container: nobody"),
        ({"Tmpfs": {"/x": "foo=bar"}}, r'invalid tmpfs option \["foo" "bar"\]'),
        ({"Binds": ["v1:/b"], "VolumeDriver": "nfs"}, "create .*: error looking up volume plugin nfs.*"),
        ({"Binds": ["v1:/etc/passwd"]}, "source /etc/passwd is not directory"),
    ],
)
def test_a_container_that_can_not_be_made_leaves_nothing(clean: Daemon, host: dict[str, Any], message: str) -> None:
    """Named volumes stay, as with dockerd; anonymous ones don't."""
    body: dict[str, Any] = CREATE | {"HostConfig": host, "Volumes": {"/anon": {}}}
    status, answer = clean.request("POST", "/containers/create?name=box", body)
    assert status in (400, 404, 500)
    assert re.fullmatch(message, answer["message"])
    assert clean.request("GET", "/containers/json?all=1") == (200, [])
    assert named(clean) in ([], ["v1"])
    assert list((clean.data / "containers").iterdir()) == []


def test_a_volume_over_a_file_of_the_image(clean: Daemon) -> None:
    body = CREATE | {"Volumes": {"/bin/sh": {}}}
    message = "cannot mount volume over existing file, file exists /bin/sh"
    assert clean.request("POST", "/containers/create", body) == (500, {"message": message})


def test_read_only_of_older_clients_is_for_one_mount(clean: Daemon) -> None:
    """Before API 1.44 the mounts inside one that is read-only could be written to."""
    mount = {"Type": "bind", "Source": "/tmp", "Target": "/m", "ReadOnly": True}
    host = {"Binds": ["/tmp:/b:ro"], "Mounts": [mount], "NetworkMode": "none"}
    for version, word in (("/v1.43", "ro"), ("/v1.44", "rro")):
        wanted: dict[str, Any] = {**CREATE, "Cmd": ["cat"], "OpenStdin": True, "HostConfig": host}
        identity = clean.request("POST", f"{version}/containers/create", wanted)[1]["Id"]
        assert clean.request("POST", f"/containers/{identity}/start")[0] == 204
        bundle = json.loads((clean.run / "bundles" / identity / "config.json").read_text())
        options = {one["destination"]: one["options"] for one in bundle["mounts"]}
        assert (word in options["/b"], word in options["/m"]) == (True, True)


def test_many_at_once(clean: Daemon) -> None:
    """The same name from many sides is one volume; each create gets it."""
    answers: list[tuple[int, Any]] = []
    body = CREATE | {"HostConfig": {"Binds": ["site:/s", "/anon"]}}

    def ask() -> None:
        answers.append(create(clean, Name="site"))
        answers.append(clean.request("POST", "/containers/create", body))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {201}
    assert len(named(clean)) == 9
    clean.docker("rm", "-v", *clean.out("ps", "-aq").split())
    assert named(clean) == ["site"]


def test_the_sdk(clean: Daemon) -> None:
    client = docker.DockerClient(base_url=clean.host)
    try:
        client.volumes.create().remove()
        volume = client.volumes.create("site", labels={"a": "b"})
        assert [one.name for one in client.volumes.list(filters={"label": "a=b"})] == ["site"]
        mount = docker.types.Mount("/s", "site")
        tmpfs = docker.types.Mount("/t", None, type="tmpfs", tmpfs_size="1m", tmpfs_mode=0o700)
        script = ["sh", "-c", "echo x > /s/file; stat -c %a /t"]
        output = client.containers.run("busybox", script, mounts=[mount, tmpfs], network_mode="none", remove=True)
        assert output == b"700\n"
        user = client.containers.create("busybox", "true", volumes={"site": {"bind": "/s", "mode": "ro"}})
        with pytest.raises(APIError) as caught:
            volume.remove()
        assert caught.value.status_code == 409
        assert f"remove site: volume is in use - [{user.id}]" in str(caught.value)
        user.remove(v=True)
        volume.remove()
        with pytest.raises(NotFound):
            client.volumes.get("site")
    finally:
        client.close()
