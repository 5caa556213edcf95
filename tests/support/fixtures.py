"""Fixtures that several folders of tests share; their conftests import them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, make_busybox, running


@pytest.fixture(scope="session", autouse=True)
def busybox_archive(tmp_path_factory: pytest.TempPathFactory) -> None:
    make_busybox(tmp_path_factory.mktemp("busybox"))


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests of a file that do it no harm. Another file's images are not seen: which came first is
    for chance to say."""
    with running(tmp_path_factory.mktemp("engine")) as daemon:
        yield daemon


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Iterator[Daemon]:
    """The shared daemon; a test's containers are removed after it."""
    yield shared_daemon
    shared_daemon.remove_all()
    assert [path.name for path in shared_daemon.cgroups() if path.name != shared_daemon.cgroup] == []
