"""The image routes over HTTP, with http.client and the docker command, on an engine that has nothing but images."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from labkit.images.references import parse
from labkit.images.removal import ContainerUse
from labkit.images.store import ImageStore
from tests.api.images import Api
from tests.images.tars import config_of, digest, directory, docker_archive, member, tar

pytestmark = pytest.mark.root  # layers carry owners

BASE = tar(directory("etc"), member("etc/name", b"base"))
TOP = tar(member("etc/top", b"top!"))
ARM = {"os": "linux", "architecture": "arm64"}


def wait_until_empty(directory: Path) -> None:
    """The thread that worked for a client which has gone gives up in its own time; nothing tells of it."""
    deadline = time.monotonic() + 10
    while os.listdir(directory) and time.monotonic() < deadline:
        os.sched_yield()
    assert os.listdir(directory) == []


def test_load_tells_what_it_loaded(api: Api) -> None:
    archive = docker_archive([BASE, TOP], ["app:1"])
    assert api.lines("POST", "/images/load", archive) == [{"stream": "Loaded image: app:1\n"}]
    identifier = digest(config_of([BASE, TOP]))
    assert api.engine.published == [("image", "load", identifier, identifier)]
    nameless = api.lines("POST", "/images/load", docker_archive([TOP]))
    assert nameless == [{"stream": f"Loaded image ID: {digest(config_of([TOP]))}\n"}]


def test_load_with_progress(api: Api) -> None:
    lines = api.lines("POST", "/v1.43/images/load", docker_archive([BASE], ["app"]), quiet="0")
    assert lines[0]["id"] == digest(BASE)[7:19]
    assert lines[0]["status"] == "Loading layer"
    assert lines[-2]["progressDetail"] == {"current": len(BASE), "total": len(BASE)}
    assert lines[-2]["progress"] == f"[{'=' * 50}]  10.24kB/10.24kB"
    assert lines[-1] == {"stream": "Loaded image: app:latest\n"}


def test_load_of_a_chunked_body(api: Api) -> None:
    archive = docker_archive([tar(member("big", os.urandom(9 << 20)))], ["app"])
    body = (archive[at : at + 70_001] for at in range(0, len(archive), 70_001))
    assert api.lines("POST", "/images/load", body) == [{"stream": "Loaded image: app:latest\n"}]


def test_a_client_that_expects_100_continue(api: Api) -> None:
    """As curl does with large bodies: `100 Continue` comes before the answer, not in the middle of it."""
    archive = docker_archive([BASE], ["app"])
    client = api.served.connect()
    head = f"POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: {len(archive)}\r\nConnection: close\r\n"
    client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(archive)
    with client.makefile("rb") as answer:
        data = answer.read()
    client.close()
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"100 Continue" not in data
    assert b'{"stream":"Loaded image: app:latest\\n"}' in data


def test_load_says_whose_name_it_takes(api: Api) -> None:
    api.lines("POST", "/images/load", docker_archive([BASE], ["app"]))
    lines = api.lines("POST", "/images/load", docker_archive([TOP], ["app"]))
    old = digest(config_of([BASE]))
    assert lines[0]["stream"] == (
        f"The image app:latest already exists, renaming the old one with ID {old} to empty string\n"
    )


def test_a_bad_archive_is_told_in_the_stream(api: Api) -> None:
    """Also when the client has not sent all of it yet."""
    bad = docker_archive([tar(member("../x"))], ["app"]) + bytes(6 << 20)
    for archive in (bad, b"not a tar" * 1_000_000):
        (line,) = api.lines("POST", "/images/load", archive)
        assert line["error"] == line["errorDetail"]["message"]
        assert "outside of the root" in line["error"] or "invalid tar header" in line["error"]
    assert api.json("GET", "/images/json") == []


def test_a_client_that_goes_in_the_middle(api: Api, tmp_path: Path) -> None:
    """What it sent is given up; the store takes the next archive."""
    archive = docker_archive([tar(member("big", bytes(8 << 20)))], ["app"])
    client = api.served.connect()
    client.sendall(b"POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(archive))
    client.sendall(archive[: 5 << 20])
    client.shutdown(socket.SHUT_RDWR)
    client.close()
    assert api.lines("POST", "/images/load", archive) == [{"stream": "Loaded image: app:latest\n"}]
    wait_until_empty(tmp_path / "images/tmp")


def test_list(api: Api) -> None:
    api.lines("POST", "/images/load", docker_archive([BASE, TOP], ["app:1"]))
    api.lines("POST", "/images/load", docker_archive([BASE], ["base:1"]))
    listed = {image["RepoTags"][0]: image for image in api.json("GET", "/images/json", **{"shared-size": 1})}
    assert listed["app:1"] == {
        "Id": digest(config_of([BASE, TOP])),
        "ParentId": "",
        "RepoTags": ["app:1"],
        "RepoDigests": [],
        "Created": 1704164645,
        "Size": 8,
        "SharedSize": 4,
        "Labels": None,
        "Containers": -1,
        "Descriptor": api.json("GET", "/images/app:1/json")["Descriptor"],
    }
    assert api.json("GET", "/v1.43/images/json")[0]["VirtualSize"] in (4, 8)
    assert {image["SharedSize"] for image in api.json("GET", "/images/json")} == {-1}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["new:1", "old:1", None]),
        ({"dangling": ["true"]}, [None]),
        ({"dangling": {"false": True}}, ["new:1", "old:1"]),
        ({"reference": ["new"]}, ["new:1"]),
        ({"reference": ["*:1", "x"]}, ["new:1", "old:1"]),
        ({"label": ["a"]}, ["new:1", None]),
        ({"label": ["a=1"]}, ["new:1"]),
        ({"label": ["a=1", "b"]}, []),
        ({"label!": ["a"]}, ["old:1"]),
        ({"before": ["new:1"]}, ["old:1"]),
        ({"since": ["old:1"]}, ["new:1", None]),
        ({"until": ["2021-01-01T00:00:00Z"]}, ["old:1"]),
        ({"until": ["1h"]}, ["new:1", "old:1", None]),
    ],
)
def test_filters(api: Api, filters: dict[str, Any], found: list[str | None]) -> None:
    def load(layer: bytes, tags: list[str] | None, created: str, labels: dict[str, str]) -> None:
        config = config_of([layer], created=created, config={"Labels": labels})
        api.lines("POST", "/images/load", docker_archive([layer], tags, config))

    load(BASE, ["old:1"], "2020-05-05T00:00:00.123456789Z", {})
    load(TOP, ["new:1"], "2023-05-05T00:00:00+02:00", {"a": "1"})
    load(tar(), None, "2024-05-05T00:00:00Z", {"a": "2"})
    listed = api.json("GET", "/images/json", filters=json.dumps(filters))
    assert sorted((image["RepoTags"] or [None])[0] or "~" for image in listed) == [name or "~" for name in found]


def test_bad_filters(api: Api) -> None:
    assert api.error(400, "GET", "/images/json", filters='{"color":["red"]}') == "invalid filter 'color'"
    assert "dangling" in api.error(400, "GET", "/images/json", filters='{"dangling":["maybe"]}')
    assert api.error(404, "GET", "/images/json", filters='{"before":["none"]}') == "No such image: none:latest"


def test_names_with_slashes_and_ports(api: Api) -> None:
    api.lines("POST", "/images/load", docker_archive([BASE], ["localhost:5000/a/b:1"]))
    for name in ("localhost:5000/a/b:1", quote("localhost:5000/a/b:1", safe="")):
        assert api.json("GET", f"/images/{name}/json")["RepoTags"] == ["localhost:5000/a/b:1"]
    assert api.json("GET", "/images/localhost:5000/a/b:1/history")[0]["CreatedBy"] == "layer 0"
    assert api.error(404, "GET", "/images/a/b/json") == "No such image: a/b:latest"


def test_tag(api: Api) -> None:
    api.lines("POST", "/images/load", docker_archive([BASE], ["app:1"]))
    assert api.call("POST", "/images/app:1/tag", repo="quay.io/me/app", tag="2")[0] == 201
    assert api.json("GET", "/images/app:1/json")["RepoTags"] == ["app:1", "quay.io/me/app:2"]
    assert api.engine.published[-1][1:] == ("tag", digest(config_of([BASE])), "quay.io/me/app:2")
    assert api.error(400, "POST", "/images/app:1/tag", repo="BAD") == (
        "invalid reference format: repository name (library/BAD) must be lowercase"
    )
    assert api.error(404, "POST", "/images/none/tag", repo="x") == "No such image: none:latest"


def test_remove(api: Api) -> None:
    api.lines("POST", "/images/load", docker_archive([BASE], ["app:1", "app:2"]))
    identifier = digest(config_of([BASE]))
    api.engine.uses[identifier] = [ContainerUse("c" * 64, True)]
    assert "must be forced" not in api.error(409, "DELETE", f"/images/{identifier}", force=1)
    api.engine.uses.clear()
    assert api.json("DELETE", "/images/app:1") == [{"Untagged": "app:1"}]
    assert api.json("DELETE", "/images/app:2") == [
        {"Untagged": "app:2"},
        {"Deleted": identifier},
        {"Deleted": digest(BASE)},
    ]
    assert [action for _, action, _, _ in api.engine.published] == ["load", "untag", "untag", "delete"]


def test_save(api: Api) -> None:
    api.lines("POST", "/images/load", docker_archive([BASE, tar(member("big", os.urandom(3 << 20)))], ["a:1"]))
    api.lines("POST", "/images/load", docker_archive([TOP], ["b:1"]))
    status, archive = api.call("GET", "/images/get", names=["a:1", "b:1"])
    assert status == 200
    for name in ("a:1", "b:1"):
        api.json("DELETE", f"/images/{name}")
    lines = api.lines("POST", "/images/load", archive)
    assert [line["stream"] for line in lines] == ["Loaded image: a:1\n", "Loaded image: b:1\n"]
    assert api.error(404, "GET", "/images/none/get") == "No such image: none:latest"
    assert "names is empty" in api.error(400, "GET", "/images/get")


def test_a_client_that_leaves_a_save(api: Api, tmp_path: Path) -> None:
    api.lines("POST", "/images/load", docker_archive([tar(member("big", bytes(20 << 20)))], ["a:1"]))
    client = api.served.connect()
    client.sendall(b"GET /images/a:1/get HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.recv(1000).startswith(b"HTTP/1.1 200")
    client.close()
    wait_until_empty(tmp_path / "images/tmp")


def test_import(api: Api) -> None:
    query = {"fromSrc": "-", "repo": "own", "tag": "1", "changes": ["CMD sh", "ENV A=1"], "message": "mine"}
    lines = api.lines("POST", "/images/create", gzip.compress(BASE), **query)
    found = api.json("GET", "/images/own:1/json")
    assert lines[-1] == {"status": found["Id"]}
    assert lines[0]["status"] == "Importing"
    assert found["Config"] == {"Cmd": ["/bin/sh", "-c", "sh"], "Env": ["A=1"]}
    assert found["Comment"] == "mine"
    refused = api.error(400, "POST", "/images/create", BASE, fromSrc="-", changes="RUN x")
    assert refused == "run is not a valid change command"


def test_platforms(api: Api) -> None:
    """Of an image for one platform, asked for by this one or another."""
    api.lines("POST", "/images/load", docker_archive([BASE], ["app:1"], config_of([BASE], architecture="arm64")))
    for path in ("json", "history", "get"):
        assert api.call("GET", f"/images/app:1/{path}", platform=json.dumps(ARM))[0] == 200
        assert api.call("GET", f"/images/app:1/{path}", platform=json.dumps(ARM | {"variant": "v8"}))[0] == 200
        error = api.error(404, "GET", f"/images/app:1/{path}", platform='{"os":"linux","architecture":"amd64"}')
        assert error == (
            "image with reference app:1 was found but its platform (linux/arm64) "
            "does not match the specified platform (linux/amd64)"
        )
    assert "both OS and Arch" in api.error(400, "GET", "/images/app:1/json", platform="{}")
    assert "conflicting options" in api.error(400, "GET", "/images/app:1/json", platform=json.dumps(ARM), manifests=1)


def test_load_of_a_platform(api: Api) -> None:
    archive = docker_archive([BASE], ["app:1"], config_of([BASE], architecture="arm64"))
    (line,) = api.lines("POST", "/images/load", archive, platform="linux/s390x")
    assert line["error"] == "requested platform (linux/s390x) not found in the archive"
    assert api.json("GET", "/images/json") == []
    assert api.lines("POST", "/images/load", archive, platform=json.dumps(ARM)) == [{"stream": "Loaded image: app:1\n"}]


def test_manifests(api: Api) -> None:
    api.lines("POST", "/images/load", docker_archive([BASE], ["app:1"]))
    identifier = digest(config_of([BASE]))
    api.engine.uses[identifier] = [ContainerUse("c" * 64, True)]
    image = api.engine.images.resolve("app:1")
    content = image.manifest.size + len(image.document) + len(BASE)
    expected = {
        "ID": image.manifest.digest,
        "Descriptor": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.manifest.digest,
            "size": image.manifest.size,
            "platform": {"architecture": "amd64", "os": "linux"},
        },
        "Available": True,
        "Size": {"Content": content, "Total": content + 4},
        "Kind": "image",
        "ImageData": {
            "Platform": {"architecture": "amd64", "os": "linux"},
            "Containers": ["c" * 64],
            "Size": {"Unpacked": 4},
        },
    }
    (listed,) = api.json("GET", "/images/json", manifests=1)
    assert listed["Manifests"] == [expected]
    found = api.json("GET", "/images/app:1/json", manifests=1)
    assert (found["Manifests"], found["Descriptor"]) == ([expected], expected["Descriptor"])
    assert "Manifests" not in api.json("GET", "/images/app:1/json")
    assert "Descriptor" not in api.json("GET", "/v1.47/images/app:1/json")


def test_hub_build(api: Api) -> None:
    lines = api.lines("POST", "/labkit/hub/build", name="busybox")
    assert any(line.get("stream", "").startswith("/bin/busybox from /") for line in lines)
    assert lines[-1] == {"stream": "Loaded image: busybox:latest\n"}
    assert api.json("GET", "/images/busybox/json")["Config"]["Cmd"] == ["sh"]
    assert "no recipe for 'windows'" in api.error(404, "POST", "/labkit/hub/build", name="windows")
    assert "which image?" in api.error(400, "POST", "/labkit/hub/build")
    assert "no absolute path" in api.error(400, "POST", "/labkit/hub/build", name="busybox", into="here")


def test_hub_build_for_another_hub(api: Api, tmp_path: Path) -> None:
    lines = api.lines("POST", "/labkit/hub/build", name=["alpine", "busybox"], into=f"{tmp_path}/usb")
    assert lines[-1] == {"stream": "In the hub: alpine:latest\n"}
    assert api.json("GET", "/images/json") == []
    assert (tmp_path / "usb/library/alpine/index.json").exists()


def test_the_docker_command(api: Api, tmp_path: Path) -> None:
    (tmp_path / "app.tar").write_bytes(docker_archive([BASE, TOP], ["app:1"]))
    assert api.docker("load", "-i", f"{tmp_path}/app.tar") == "Loaded image: app:1\n"
    identifier = digest(config_of([BASE, TOP]))
    assert api.docker("images", "-q", "--no-trunc") == f"{identifier}\n"
    assert api.docker("inspect", "-f", "{{.Config.Cmd}} {{.RootFS.Layers}}", "app:1") == (
        f"[sh] [{digest(BASE)} {digest(TOP)}]\n"
    )
    assert api.docker("history", "-q", "app:1") == f"{identifier[7:19]}\n<missing>\n"
    assert api.docker("tag", "app:1", "other") == ""
    assert api.docker("save", "-o", f"{tmp_path}/saved.tar", "app:1", "other") == ""
    assert api.docker("rmi", "app:1", "other").splitlines() == [
        "Untagged: app:1",
        "Untagged: other:latest",
        f"Deleted: {identifier}",
        f"Deleted: {api_chain()}",
        f"Deleted: {digest(BASE)}",
    ]
    assert api.docker("load", stdin=(tmp_path / "saved.tar").read_bytes()) == (
        "Loaded image: app:1\nLoaded image: other:latest\n"
    )
    imported = api.docker("import", "-c", "CMD sh", "-m", "note", "-", "own:1", stdin=BASE)
    assert imported.strip() == api.engine.images.resolve("own:1").id
    assert "No such image: none" in api.docker("rmi", "none", fails=True)
    assert "invalid tar header" in api.docker("load", stdin=b"x" * 4096, fails=True)


def api_chain() -> str:
    return digest(f"{digest(BASE)} {digest(TOP)}".encode())


def test_steps_of_local_builds_are_hidden(api: Api, tmp_path: Path) -> None:
    """A parent without a name shows with --all only, and goes with its child."""
    parent = api.engine.images.import_(io.BytesIO(BASE))
    child = api.engine.images.import_(io.BytesIO(TOP), parse("child"))
    api.engine.images.close()
    index = json.loads((tmp_path / "images/index.json").read_text())
    index["manifests"][1]["annotations"]["io.github.labkit.parent"] = parent  # as a build will write it
    (tmp_path / "images/index.json").write_text(json.dumps(index))
    api.engine.images = ImageStore(tmp_path / "images")
    assert [image["Id"] for image in api.json("GET", "/images/json")] == [child]
    assert {image["Id"] for image in api.json("GET", "/images/json", all=1)} == {child, parent}
    assert [step["Id"] for step in api.json("GET", "/images/child/history")] == [child]
    assert "dependent child images" in api.error(409, "DELETE", f"/images/{parent}", force=1)
    removed = api.json("DELETE", "/images/child")
    assert [item.get("Deleted") for item in removed] == [None, child, digest(TOP), parent, digest(BASE)]
