"""The image store: archives in and out, names, removal, and what stays on disk, whatever happens."""

from __future__ import annotations

import gzip
import io
import json
import os
import threading
from pathlib import Path

import pytest
import zstandard

from labkit.errors import Conflict, Forbidden, InvalidParameter, NotFound
from labkit.images.layers import LayerPolicy
from labkit.images.progress import Progress
from labkit.images.references import parse
from labkit.images.removal import ContainerUse
from labkit.images.store import ImageStore
from tests.images.stores import BASE, TOP, assert_whole, blobs, load, unused
from tests.images.tars import config_of, contents, digest, directory, docker_archive, member, symlink, tar

pytestmark = pytest.mark.root  # layers carry owners


def test_load(store: ImageStore, tmp_path: Path) -> None:
    seen: list[Progress] = []
    names = store.load(io.BytesIO(docker_archive([BASE, TOP], ["app:v1", "quay.io/a/app:v1"])), seen.append)
    assert names == ["app:v1", "quay.io/a/app:v1"]
    (image,) = store.list()
    assert image.id == digest(config_of([BASE, TOP]))
    assert image.repo_tags == ["app:v1", "quay.io/a/app:v1"]
    assert image.config.defaults.cmd == ["sh"]
    assert image.raw_config["config"]["x-unknown"] == {"kept": True}
    assert image.size == len("base") + len("x") + len("top!")
    top, base = store.lower_dirs(image)
    assert contents(Path(base)) == {"etc/name": b"base", "gone": b"x"}
    assert contents(Path(top)) == {"etc/name": b"top!"}
    assert {progress.id for progress in seen} == {digest(layer)[7:19] for layer in (BASE, TOP)}
    assert {(progress.current, progress.total) for progress in seen} >= {(len(BASE), len(BASE)), (len(TOP), len(TOP))}


def test_it_is_all_there_after_a_restart(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    load(store, docker_archive([BASE, TOP], ["app:v1"]))
    before = store.list()
    store.close()
    again = ImageStore(tmp_path / "store")
    assert again.list() == before
    again.close()


@pytest.mark.parametrize("packed", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_archives_and_layers(store: ImageStore, packed: type[bytes]) -> None:
    load(store, packed(docker_archive([BASE, TOP], ["app"], stored=[packed(BASE), TOP])))
    image = store.resolve("app")
    assert contents(Path(store.lower_dirs(image)[1])) == {"etc/name": b"base", "gone": b"x"}
    assert image.layers[0].media_type.startswith("application/vnd.oci.image.layer.v1.tar+")
    assert image.layers[1].media_type == "application/vnd.oci.image.layer.v1.tar"


class Dribbling:
    """A pipe that gives a few bytes at a time and can't seek."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int, /) -> bytes:
        piece, self._data = self._data[: min(size, 777)], self._data[min(size, 777) :]
        return piece


def test_an_archive_from_a_pipe(store: ImageStore) -> None:
    assert store.load(Dribbling(docker_archive([BASE], ["app"]))) == ["app:latest"]


def test_equal_layers_of_an_old_archive_are_links(store: ImageStore) -> None:
    config = config_of([BASE, BASE])
    manifest = [{"Config": "c.json", "RepoTags": None, "Layers": ["1/layer.tar", "2/layer.tar"]}]
    archive = tar(
        directory("1"),
        member("1/layer.tar", BASE),
        symlink("2/layer.tar", "../1/layer.tar"),
        member("c.json", config),
        member("manifest.json", json.dumps(manifest).encode()),
    )
    assert load(store, archive) == [digest(config)]
    assert len(set(store.lower_dirs(store.list()[0]))) == 2


def test_layers_are_shared(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive([BASE], ["base"]))
    load(store, docker_archive([BASE, TOP], ["app"]))
    assert store.lower_dirs(store.resolve("app"))[1:] == store.lower_dirs(store.resolve("base"))
    removed = store.remove("base", False, unused)
    assert [(item.untagged, item.deleted) for item in removed] == [
        ("base:latest", ""),
        ("", digest(config_of([BASE]))),
    ]
    assert contents(Path(store.lower_dirs(store.resolve("app"))[1]))["gone"] == b"x"
    store.remove("app", False, unused)
    assert blobs(tmp_path / "store") == set()
    assert os.listdir(tmp_path / "store/snapshots") == []


BAD = {
    "truncated": (docker_archive([BASE, TOP], ["app"])[:-9000], "unexpected EOF|does not contain"),
    "wrong diff ID": (docker_archive([BASE], ["app"], config_of([TOP])), "invalid diffID for layer"),
    "too few layers": (docker_archive([BASE], ["app"], config_of([BASE, TOP])), "layers length mismatch: expected 2"),
    "a layer that climbs out": (docker_archive([tar(member("../../x"))], ["app"]), "outside of the root"),
    "a second image that is bad": (docker_archive([BASE, tar(member("/a/../../x"))], ["app"]), "outside of the root"),
    "no manifest": (tar(member("something", b"else")), "does not contain a manifest.json"),
    "manifest of another kind": (tar(member("manifest.json", b'{"a":1}')), "invalid manifest.json"),
    "a bad name": (docker_archive([BASE], ["BAD NAME"]), "must be lowercase"),
    "a missing file": (
        tar(member("manifest.json", b'[{"Config":"nowhere.json","Layers":[]}]')),
        "has no file 'nowhere.json'",
    ),
    "a config outside": (
        tar(symlink("c", "../../../etc/passwd"), member("manifest.json", b'[{"Config":"c","Layers":[]}]')),
        "outside of the root",
    ),
    "a member that climbs out": (tar(member("../x")), "outside of the root"),
    "not a tar": (b"hello" * 1000, "invalid tar header"),
    "nothing": (b"", "does not contain a manifest.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_archives_leave_nothing(store: ImageStore, tmp_path: Path, name: str) -> None:
    archive, message = BAD[name]
    with pytest.raises(InvalidParameter, match=message):
        load(store, archive)
    assert store.list() == []
    assert blobs(tmp_path / "store") == set()
    assert os.listdir(tmp_path / "store/snapshots") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def oci_archive(**changes: bytes) -> bytes:
    """An OCI archive of BASE; `changes` replace one of its documents or blobs under its old digest."""
    config = config_of([BASE])
    parts = {"config": config, "layer": BASE}
    manifest = {
        "schemaVersion": 2,
        "config": {"mediaType": "c", "digest": digest(config), "size": len(config)},
        "layers": [{"mediaType": "l", "digest": digest(BASE), "size": len(BASE)}],
    }
    parts["manifest"] = json.dumps(manifest).encode()
    names = {part: f"blobs/sha256/{digest(data)[7:]}" for part, data in parts.items()}
    index = {
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(parts["manifest"]),
                "size": len(parts["manifest"]),
                "annotations": {"org.opencontainers.image.ref.name": "quay.io/oci/app:1"},
            }
        ]
    }
    blobs = [member(names[part], changes.get(part, data)) for part, data in parts.items()]
    return tar(member("oci-layout", b"{}"), *blobs, member("index.json", json.dumps(index).encode()))


def test_oci_archives(store: ImageStore) -> None:
    assert load(store, oci_archive()) == ["quay.io/oci/app:1"]


@pytest.mark.parametrize("part", ["config", "layer", "manifest"])
def test_a_blob_with_a_wrong_digest(store: ImageStore, part: str) -> None:
    with pytest.raises(InvalidParameter, match=r"has no blob sha256:[0-9a-f]{64}, or one with another digest"):
        load(store, oci_archive(**{part: b"something else"}))
    assert store.list() == []


def test_save_and_load_again(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive([BASE, TOP], ["app:v1", "app:v2", "other:x"], stored=[gzip.compress(BASE), TOP]))
    image = store.resolve("app:v1")
    archive = b"".join(store.save(["app", "other:x"]))
    assert b"".join(store.save(["app", "other:x"])) == archive
    other = ImageStore(tmp_path / "other")
    assert load(other, archive) == ["app:v1", "app:v2", "other:x"]
    assert other.resolve("app:v1").manifest == image.manifest
    assert contents(Path(other.lower_dirs(image)[1])) == {"etc/name": b"base", "gone": b"x"}
    other.close()
    assert_whole(tmp_path / "other")


def test_save_by_id_has_no_name(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive([BASE], ["app:v1"]))
    identifier = store.resolve("app:v1").id
    other = ImageStore(tmp_path / "other")
    assert load(other, b"".join(store.save([identifier[7:20]]))) == [identifier]
    other.close()
    with pytest.raises(NotFound, match="No such image: nothing:latest"):
        store.save(["nothing"])


def test_a_save_survives_the_removal_of_its_image(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker_archive([BASE, TOP], ["app"]))
    saving = store.save(["app"])
    first = next(saving)
    store.remove("app", False, unused)
    archive = first + b"".join(saving)
    assert load(store, archive) == ["app:latest"]


def test_an_abandoned_save_leaves_nothing(store: ImageStore) -> None:
    load(store, docker_archive([BASE], ["app"]))
    for taken in (0, 1):
        saving = store.save(["app"])
        for _ in range(taken):
            next(saving)
        saving.close()


def test_import(store: ImageStore, tmp_path: Path) -> None:
    changes = ["CMD top", "ENV A=1 B=two", "EXPOSE 80", "WORKDIR /srv"]
    identifier = store.import_(io.BytesIO(gzip.compress(BASE)), parse("own:1"), changes, "note", "linux/arm64/v8")
    image = store.resolve("own:1")
    assert image.id == identifier == digest(image.document)
    assert image.config.rootfs.diff_ids == (digest(BASE),)
    assert (image.config.architecture, image.config.variant, image.config.comment) == ("arm64", "v8", "note")
    defaults = image.config.defaults
    assert defaults.cmd == ["/bin/sh", "-c", "top"]
    assert (defaults.env, defaults.exposed_ports, defaults.working_dir) == (["A=1", "B=two"], {"80/tcp": {}}, "/srv")
    assert contents(Path(store.lower_dirs(image)[0])) == {"etc/name": b"base", "gone": b"x"}
    with pytest.raises(InvalidParameter, match="run is not a valid change command"):
        store.import_(io.BytesIO(BASE), None, ["RUN true"])
    with pytest.raises(InvalidParameter, match="unexpected EOF"):
        store.import_(io.BytesIO(BASE[:600]))
    assert len(store.list()) == 1


def test_resolve(store: ImageStore) -> None:
    load(store, docker_archive([BASE], ["app:v1"]))
    load(store, docker_archive([TOP], None))
    image = store.resolve("docker.io/library/app:v1")
    for name in ("app:v1", image.id, image.id[7:], image.id[7:19], f"sha256:{image.id[7:12]}"):
        assert store.resolve(name).id == image.id
    for name, message in {
        "app": "No such image: app:latest",
        "f" * 64: f"No such image: sha256:{'f' * 64}",
        f"app@sha256:{'1' * 64}": f"No such image: app@sha256:{'1' * 64}",
    }.items():
        with pytest.raises(NotFound) as caught:
            store.resolve(name)
        assert str(caught.value) == message
    with pytest.raises(InvalidParameter, match="invalid reference format"):
        store.resolve("a b")
    with pytest.raises(InvalidParameter, match="invalid reference format"):
        store.resolve("")


def test_a_name_moves_and_the_old_image_stays_without(store: ImageStore) -> None:
    load(store, docker_archive([BASE], ["app"]))
    old = store.resolve("app")
    load(store, docker_archive([TOP], ["app"]))
    assert store.resolve("app").id != old.id
    assert store.resolve(old.id).repo_tags == []
    store.tag(store.resolve(old.id), parse("app"))
    assert store.resolve("app").id == old.id
    assert sorted(image.repo_tags for image in store.list()) == [[], ["app:latest"]]


def test_remove_by_name_and_by_id(store: ImageStore) -> None:
    load(store, docker_archive([BASE], ["app:1", "app:2", "other:1"]))
    image = store.resolve("app:1")
    assert [item.untagged for item in store.remove("app:1", False, unused)] == ["app:1"]
    with pytest.raises(Conflict) as caught:
        store.remove(image.id, False, unused)
    assert str(caught.value) == (
        f"conflict: unable to delete {image.id[7:19]} (must be forced) - image is referenced in multiple repositories"
    )
    removed = store.remove(image.id[7:], True, unused)
    assert [item.untagged or item.deleted for item in removed] == ["app:2", "other:1", image.id, digest(BASE)]
    with pytest.raises(NotFound, match="No such image: other:1"):
        store.remove("other:1", False, unused)


def test_an_image_in_use_by_a_stopped_container(store: ImageStore) -> None:
    """Removed by force, its layers stay for the container, and go when the container has gone."""
    load(store, docker_archive([BASE], ["app"]))
    image = store.resolve("app")
    lower = Path(store.lower_dirs(image)[0])
    users = [ContainerUse("c" * 64, False)]
    with pytest.raises(Conflict) as caught:
        store.remove("app", False, lambda _: users)
    assert str(caught.value) == (
        'conflict: unable to remove repository reference "app:latest" (must force) - '
        f"container cccccccccccc is using its referenced image {image.id[7:19]}"
    )
    assert [item.deleted for item in store.remove("app", True, lambda _: users)][1:] == [image.id]
    assert store.list() == []
    store.collect(lambda _: users)
    assert contents(lower)["gone"] == b"x"
    users.clear()
    store.collect(lambda _: users)
    assert not lower.exists()


def test_an_image_in_use_by_a_running_container(store: ImageStore) -> None:
    load(store, docker_archive([BASE], ["app"]))
    image = store.resolve("app")
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image is being used by running container cccccccccccc"):
        store.remove(image.id, True, lambda _: [ContainerUse("c" * 64, True)])
    assert [item.untagged for item in store.remove("app", True, lambda _: [ContainerUse("c" * 64, True)])] == [
        "app:latest"
    ]
    assert store.resolve(image.id).repo_tags == []


def test_inspect_and_history(store: ImageStore) -> None:
    load(store, docker_archive([BASE, TOP], ["app"]))
    image = store.resolve("app")
    found = store.inspect(image)
    assert found.config["x-unknown"] == {"kept": True}
    assert found.root_fs == {"Type": "layers", "Layers": [digest(BASE), digest(TOP)]}
    assert found.created == "2024-01-02T03:04:05.678901234Z"
    steps = store.history(image)
    assert [(step.id, step.created, step.created_by, step.size, step.tags) for step in steps] == [
        (image.id, 1704164645, "layer 1", 4, ["app:latest"]),
        ("<missing>", 1704164645, "layer 0", 5, None),
    ]


def test_an_image_without_layers(store: ImageStore) -> None:
    load(store, docker_archive([], ["scratch"]))
    (lower,) = store.lower_dirs(store.resolve("scratch"))
    assert os.listdir(lower) == []


def test_devices_where_the_policy_forbids_them(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store", LayerPolicy(devices=False))
    info, _ = member("dev/null", kind=b"3")
    with pytest.raises(Forbidden, match="device nodes are not permitted here"):
        load(store, docker_archive([tar((info, b""))], ["app"]))
    assert store.list() == []
    store.close()
    assert_whole(tmp_path / "store")


def test_chain_ids_that_begin_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory's name is the beginning of its chain ID; with names of one digit, twenty layers must share some."""
    monkeypatch.setattr("labkit.images.snapshots._SHORT", 1)
    layers = [tar(member("n", b"%d" % number)) for number in range(20)]
    store = ImageStore(tmp_path / "store")
    load(store, docker_archive(layers, ["app"]))
    load(store, docker_archive(layers[:10], ["half"]))
    store.close()
    again = ImageStore(tmp_path / "store")
    lower = again.lower_dirs(again.resolve("app"))
    assert [contents(Path(directory))["n"] for directory in lower] == [b"%d" % number for number in range(20)][::-1]
    assert {len(Path(directory).parent.name) for directory in lower} == {1, 64}
    again.remove("app", False, unused)
    assert again.lower_dirs(again.resolve("half")) == lower[10:]
    again.remove("half", False, unused)
    again.close()
    assert os.listdir(tmp_path / "store/snapshots") == []


def test_a_store_from_before_names_were_short(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    load(store, docker_archive([BASE], ["app"]))
    (short,) = (Path(directory).parent for directory in store.lower_dirs(store.resolve("app")))
    store.close()
    short.rename(short.with_name(digest(BASE)[7:]))
    again = ImageStore(tmp_path / "store")
    assert contents(Path(again.lower_dirs(again.resolve("app"))[0])) == {"etc/name": b"base", "gone": b"x"}
    again.remove("app", False, unused)
    again.close()
    assert os.listdir(tmp_path / "store/snapshots") == []


def test_many_threads(store: ImageStore) -> None:
    """Loads, names, removals and saves of images that share a layer, all at once."""
    archives = [docker_archive([BASE, tar(member(f"f{n}"))], [f"app:{n}"]) for n in range(4)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                load(store, archives[number])
                image = store.resolve(f"app:{number}")
                assert len(store.lower_dirs(image)) == 2
                store.tag(image, parse(f"again:{number}"))
                assert b"".join(store.save([f"again:{number}"]))
                store.remove(f"app:{number}", False, unused)
                store.remove(f"again:{number}", False, unused)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.list() == []
