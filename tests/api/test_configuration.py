"""The daemon's configuration file: what it may say, what is refused, and what a reload takes."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from labkit.api import configuration, daemon
from labkit.engine.engine import Engine
from labkit.engine.settings import Settings
from labkit.errors import InvalidParameter
from tests.support.daemon import REPOSITORY, Daemon, running
from tests.support.events import events
from tests.support.fixtures import busybox_archive

__all__ = ["busybox_archive"]


def options(file: Path, *words: str) -> Settings:
    found, _ = configuration.options(["--config-file", str(file), *words])
    return configuration.settings_of(found)


def write(folder: Path, what: Any) -> Path:
    path = folder / "daemon.json"
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    return path


def test_directives_are_flags(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {
            "data-root": "/d", "live-restore": True, "labels": ["a=b"], "registry-mirrors": ["https://m"],
            "log-opts": {"max-size": "1m"}, "runtimes": {"mine": {"path": "/p"}}, "insecure-registries": ["r:5000"],
        },
    )  # fmt: skip
    said = options(file, "--exec-root", "/e", "--debug", "--add-runtime", "other=/o")
    words = ["--data-root", "/d", "--live-restore", "--label", "a=b", "--registry-mirror", "https://m", "--debug"]
    words += ["--log-opt", "max-size=1m", "--add-runtime", "mine=/p", "--add-runtime", "other=/o", "--exec-root", "/e"]
    assert said == options(write(tmp_path, " "), *words, "--insecure-registry", "r:5000")
    assert said.runtimes == (("mine", "/p"), ("other", "/o"))


@pytest.mark.parametrize(
    ("file", "words", "message"),
    [
        ({"x": 1, "a": 2}, [], "the following directives don't match any configuration option: a, x$"),
        ({"debug": "x"}, [], r"Expected `bool`, got `str` - at `\$.debug`"),
        ("nonsense", [], "JSON is malformed"),
        ([], [], "Expected `object`"),
        ({"labels": ["a"]}, [], "bad attribute format: a"),
        ({"labels": ["a=b", "a=c"]}, [], "conflict labels for a=c and a=b"),
        ({"runtimes": {"x": {"path": "y", "z": 1}}}, [], "unknown field `z`"),
        (
            {"debug": True, "labels": ["a=b"], "hosts": ["unix:///x"], "log-opts": {"a": "b"}, "runtimes": {}},
            ["--debug", "--label", "c=d", "-H", "unix:///y", "--log-opt", "a=c", "--add-runtime", "a=b"],
            r"the following directives are specified both as a flag and in the configuration file: debug: \(from flag: "
            r"true, from file: true\), hosts: \(from flag: \[unix:///y\], from file: \[unix:///x\]\), labels: \(from "
            r"flag: \[c=d\], from file: \[a=b\]\), log-opts: \(from flag: \[a=c\], from file: map\[a:b\]\)$",
        ),
    ],
)
def test_files_that_are_refused(tmp_path: Path, file: Any, words: list[str], message: str) -> None:
    """In the words of dockerd, where it has some for people."""
    path = write(tmp_path, file)
    with pytest.raises(InvalidParameter, match=f"unable to configure the daemon with file {path}: .*{message}"):
        options(path, *words)


def test_levels_labels_and_runtimes_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="unable to parse logging level: x"):
        options(write(tmp_path, {"log-level": "x"}))
    with pytest.raises(InvalidParameter, match="bad attribute format: x"):
        options(write(tmp_path, {}), "--label", "x")
    with pytest.raises(InvalidParameter, match="runtime name 'runc' is reserved"):
        options(write(tmp_path, {"runtimes": {"runc": {"path": "/x"}}}))


def test_only_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"/nosuch: open .*/nosuch: no such file or directory"):
        options(tmp_path / "nosuch")
    assert configuration.read(str(tmp_path / "nosuch"), {}) == configuration.File()


def test_a_reload_takes_what_is_said(tmp_path: Path) -> None:
    before = Settings(labels=("a=b",), debug=True, data_root="/d")
    after = configuration.reloaded(before, {}, str(write(tmp_path, {"labels": [], "live-restore": True, "bip": "x"})))
    assert (after.labels, after.live_restore, after.debug, after.data_root, after.bip) == ((), True, True, "/d", "")
    with pytest.raises(InvalidParameter, match="specified default runtime 'x' does not exist"):
        configuration.reloaded(before, {}, str(write(tmp_path, {"default-runtime": "x"})))


def test_a_reload_that_fails_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path, {"labels": ["a=b"]})
    found, given = configuration.options(["--config-file", str(file)])
    engine = Engine(configuration.settings_of(found))
    write(tmp_path, {"labels": ["c=d"], "debug": 1})
    daemon.reload(given, found, engine)
    assert engine.settings.labels == ("a=b",)
    assert list(engine.events.recent) == []
    assert f"unable to configure the daemon with file {file}: Expected `bool`" in caplog.text
    write(tmp_path, {"labels": ["c=d"]})
    daemon.reload(given, found, engine)
    assert [told.event["Action"] for told in engine.events.recent] == ["reload"]
    engine.memory.close()


@pytest.mark.root
def test_sighup(tmp_path: Path, busybox_archive: None) -> None:
    file = write(tmp_path, {"labels": ["a=b"]})
    with running(tmp_path, "--config-file", str(file)) as own:
        first = info(own)
        assert (first["Labels"], first["Debug"]) == (["a=b"], False)
        with events(own) as told:
            write(tmp_path, {"labels": ["c=d"], "debug": True, "registry-mirrors": ["https://m.test"]})
            assert own.process
            own.process.send_signal(signal.SIGHUP)
            reload = told.until("reload")
        assert reload["Type"] == "daemon"
        assert reload["Actor"]["ID"] == first["ID"]
        said = {"labels": '["c=d"]', "debug": "true", "registry-mirrors": '["https://m.test"]', "live-restore": "false"}
        assert said.items() <= reload["Actor"]["Attributes"].items()
        second = info(own)
        assert (second["Labels"], second["Debug"]) == (["c=d"], True)
        assert second["RegistryConfig"]["Mirrors"] == ["https://m.test/"]
        own.stop()
        own.start()
        assert info(own)["ID"] == first["ID"]


def info(own: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = own.request("GET", "/info")[1]
    return found


def test_validate(tmp_path: Path) -> None:
    checked = Daemon(tmp_path, "--validate", "--config-file", str(write(tmp_path, {"debug": True})))
    assert ran(checked) == (0, "configuration OK\n")
    write(tmp_path, {"log-driver": "nosuch"})
    code, said = ran(checked)
    assert code == 1
    assert "nosuch" in said


def ran(own: Daemon) -> tuple[int, str]:
    done = subprocess.run(own.command(), capture_output=True, text=True, check=False, timeout=30, cwd=REPOSITORY)
    return done.returncode, done.stderr
