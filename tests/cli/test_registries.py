"""`login`, `pull`, `push`, `search`, `manifest`: as docker's own command does it, at real registries."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pexpect  # type: ignore[import-untyped]  # comes with IPython; there are no types for it in our environment
import pytest

from labkit.cli.naming import Name, read_name
from labkit.client import Client
from labkit.errors import InvalidParameter, NotFound
from tests.cli import recorded
from tests.support.registries import (
    PASSWORD,
    USER,
    Asked,
    TokenServer,
    make_key_pair,
    running_registry,
    scripted,
)

pytestmark = pytest.mark.root

LABKIT = [sys.executable, "-m", "labkit.cli.main"]
LINES = f"""
login -u {USER} -p {PASSWORD} {{secure}}
login {{secure}}
login -u {USER} -p wrong {{secure}}
login -u {USER} -p {PASSWORD} --password-stdin {{secure}}
login --password-stdin {{secure}}
login -u x {{secure}}
login -u a -p b 127.0.0.1:1
login
push {{secure}}/bb
pull -q {{secure}}/bb
search {{secure}}/bb
logout {{secure}}
logout {{secure}}
logout
pull {{secure}}/bb
push {{secure}}/bb
search {{secure}}/bb
login -u {USER} -p {PASSWORD} {{tokens}}
login {{tokens}}
push {{tokens}}/bb
logout {{tokens}}
push {{tokens}}/bb
pull {{tokens}}/bb
push {{plain}}/lib/bb
push -q {{plain}}/lib/bb
push -a {{plain}}/lib/bb
push -a {{plain}}/lib/bb:x
push {{plain}}/lib/nosuch
push {{plain}}/lib/bb:nosuch
push --platform linux/{{arch}} {{plain}}/lib/bb
push --platform foo/bar/x/y {{plain}}/lib/bb
push --platform {{arch}} -q {{plain}}/lib/bb
push --platform linux/s390x {{plain}}/lib/bb
push Foo
push foo@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
search {{plain}}/bb
search --limit 101 {{plain}}/bb
search --format '{{{{.Foo}}}}' {{plain}}/bb
search --format '{{{{' {{plain}}/bb
search --format json {{plain}}/bb
search --format '{{{{json .}}}} {{{{.StarCount}}}}' {{plain}}/bb
search --format 'table {{{{.Name}}}}\\t{{{{.IsOfficial}}}}' {{plain}}/bb
search -f foo=bar {{plain}}/bb
search -f stars=x {{plain}}/bb
search -f foo {{plain}}/bb
search --no-trunc --limit 5 {{plain}}/b
search
search --automated x
pull -a {{plain}}/lib/bb
pull {{plain}}/lib/bb
pull -q {{plain}}/lib/bb
pull -a {{plain}}/lib/bb:latest
pull {{plain}}/lib/nosuch
pull {{plain}}/nosuch:foo
pull Foo
pull 127.0.0.1:1/x
pull busybox@sha256:12
pull --platform a/b/c/d {{plain}}/lib/bb
pull
run --rm --network none {{plain}}/lib/nosuch true
manifest inspect --insecure {{plain}}/lib/bb
manifest inspect -v --insecure {{plain}}/lib/bb
manifest create --insecure {{plain}}/lib/list {{plain}}/lib/bb
manifest create --insecure {{plain}}/lib/list {{plain}}/lib/bb
manifest create -a --insecure {{plain}}/lib/list {{plain}}/lib/bb
manifest annotate {{plain}}/lib/list {{plain}}/lib/bb --arch arm64 --variant v9 --os-features a,b --os-version 9
manifest annotate {{plain}}/lib/list {{plain}}/lib/bb --arch foo
manifest annotate {{plain}}/lib/list {{plain}}/lib/nosuch --arch foo
manifest inspect {{plain}}/lib/list
manifest inspect -v {{plain}}/lib/list
manifest inspect {{plain}}/lib/list {{plain}}/lib/bb
manifest push --insecure {{plain}}/lib/list
manifest push --insecure --purge {{plain}}/lib/list
manifest push --insecure --purge {{plain}}/lib/list
manifest inspect --insecure {{plain}}/lib/list
manifest inspect --insecure -v {{plain}}/lib/list
manifest rm {{plain}}/lib/list
manifest rm nosuch Foo
manifest inspect --insecure {{plain}}/lib/nosuch
manifest inspect --insecure {{plain}}/lib/bb:nosuch
manifest inspect
manifest push
manifest inspect Foo
manifest create --insecure {{plain}}/lib/l2 {{plain}}/lib/nosuch
manifest create --insecure {{plain}}/other/l2 {{plain}}/lib/bb
manifest push --insecure {{plain}}/other/l2
manifest create --insecure localhost:1/x {{plain}}/lib/bb
manifest push --insecure localhost:1/x
manifest create --insecure {{plain}}/other/l3 {{plain}}/other/l2
"""
HELPS = "login logout push search pull"


@dataclass(frozen=True)
class Place:
    """The engine, and registries: without, with a password, with tokens."""

    engine: str
    names: Mapping[str, str]

    def told(self, program: list[str], words: str, config: Path, stdin: str | None = None) -> list[int | str]:
        """What a command answers, with what differs from run to run replaced."""
        environment = {**os.environ, "DOCKER_CONFIG": str(config), "DOCKER_CLI_HINTS": "false"}
        argv = [*program, *shlex.split(words.format(**self.names))]
        done = subprocess.run(
            argv, input=stdin or "", capture_output=True, text=True, timeout=60, env=environment, check=False
        )
        return [done.returncode, *(self.masked(text, config) for text in (done.stdout, done.stderr))]

    def masked(self, text: str, config: Path) -> str:
        text = re.sub(r"\blabkit\b", "docker", text.replace(str(config), "<config>"))
        for name, value in self.names.items():
            text = text.replace(value, f"<{name}>")
        for pattern, name in {r'size(": |: )\d+': r"size\1<size>", r'"Raw": "[\w+/=]+"': '"Raw": "<raw>"'}.items():
            text = re.sub(pattern, name, text)
        return recorded.masked(text)


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    folder = tmp_path_factory.mktemp("registries")
    tokens = TokenServer(make_key_pair(folder))
    with ExitStack() as stack:
        server = stack.enter_context(scripted(tokens.answer))
        auth = tokens.auth(f"{server.url}/token")
        yield {
            "plain": stack.enter_context(running_registry(folder / "plain")).host,
            "secure": stack.enter_context(running_registry(folder / "secure", passwords=True)).host,
            "tokens": stack.enter_context(running_registry(folder / "tokens", auth=auth)).host,
        }


@pytest.fixture
def place(engine: str, registries: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """All of it, with the image of these tests under names of each registry; the names are taken away after it."""
    client = Client(engine)
    image = client.get("/images/labbb/json")
    repositories = [f"{registries['plain']}/lib/bb", f"{registries['secure']}/bb", f"{registries['tokens']}/bb"]
    for repository in repositories:
        client.post("/images/labbb/tag", {"repo": repository, "tag": "latest"})
    yield Place(engine, {**registries, "arch": image["Architecture"]})
    for kind in ("RepoTags", "RepoDigests"):  # the last tag of a repository takes its digests along
        for name in [name for listed in client.get("/images/json") for name in listed[kind] or ()]:
            if name.startswith("127.0.0.1"):
                with suppress(NotFound):
                    client.request("DELETE", f"/images/{name}").body()
    client.close()


def lines() -> list[str]:
    return [line for line in LINES.strip().splitlines() if line]


@pytest.fixture
def configs(tmp_path: Path) -> tuple[Path, Path]:
    """A directory for the configuration of labkit, and one for docker's."""
    ours, theirs = tmp_path / "labkit", tmp_path / "docker"
    ours.mkdir()
    theirs.mkdir()
    return ours, theirs


def test_the_same_words_give_the_same(place: Place, configs: tuple[Path, Path]) -> None:
    """Also the same configuration: credentials, and manifest lists under work."""
    ours, theirs = configs
    _push_all(place, ours)
    answers = recorded.answers("registries") if "LABKIT_RECORD" not in os.environ else {}
    found = []
    for number, line in enumerate(lines()):
        key = f"{number:02} {line}"
        if recorded.is_installed():
            recorded.check("registries", key, place.told(["docker"], line, theirs))
            answers = recorded.answers("registries")
        if (told := place.told(LABKIT, line, ours)) != answers[key]:
            found.append(f"\n{line}\n   labkit: {told}\n   docker: {answers[key]}")
    assert "".join(found) == ""
    if recorded.is_installed():
        assert contents(ours) == contents(theirs)


def _push_all(place: Place, config: Path) -> None:
    """What follows is the same for who comes first and who comes second: the layers are there."""
    for repository in ("secure", "tokens"):
        words = f"login -u {USER} -p {PASSWORD} {{{repository}}}"
        assert place.told(LABKIT, words, config)[0] == 0
        assert place.told(LABKIT, f"push {{{repository}}}/bb", config)[0] == 0
        assert place.told(LABKIT, f"logout {{{repository}}}", config)[0] == 0
    assert place.told(LABKIT, "push {plain}/lib/bb", config)[0] == 0


def contents(folder: Path) -> dict[str, object]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): json.loads(path.read_text()) for path in files}


def test_help(place: Place, configs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/x.sock")
    for command in HELPS.split():
        answer = place.told(LABKIT, f"{command} --help", configs[0])
        if recorded.is_installed():
            recorded.check("registries", f"{command} --help", place.told(["docker"], f"{command} --help", configs[1]))
        assert answer == recorded.answers("registries")[f"{command} --help"]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_password_on_standard_input(place: Place, configs: tuple[Path, Path], ending: str) -> None:
    words = f"login -u {USER} --password-stdin {{secure}}"
    status, out, err = place.told(LABKIT, words, configs[0], stdin=PASSWORD + ending)
    assert (status, out) == (0, "Login Succeeded\n")
    assert "WARNING! Your credentials are stored unencrypted in '<config>/config.json'." in str(err)


def test_docker_goes_on_with_our_login_and_we_with_dockers(place: Place, configs: tuple[Path, Path]) -> None:
    both = configs[0]
    assert place.told(LABKIT, f"login -u {USER} -p {PASSWORD} {{secure}}", both)[0] == 0
    assert place.told(["docker"], "push -q {secure}/bb", both)[0] == 0
    assert place.told(["docker"], "logout {secure}", both)[0] == 0
    assert place.told(LABKIT, "pull {secure}/bb", both)[0] == 1
    assert place.told(["docker"], f"login -u {USER} -p {PASSWORD} {{secure}}", both)[0] == 0
    assert place.told(LABKIT, "pull -q {secure}/bb", both) == [0, "<secure>/bb:latest\n", ""]


def test_run_pulls_what_is_missing_with_the_credentials(place: Place, configs: tuple[Path, Path]) -> None:
    config = configs[0]
    place.told(LABKIT, f"login -u {USER} -p {PASSWORD} {{secure}}", config)
    place.told(LABKIT, "push {secure}/bb", config)
    place.told(LABKIT, "rmi {secure}/bb", config)
    status, out, err = place.told(LABKIT, "run --rm --network none {secure}/bb echo ran", config)
    assert (status, out) == (0, "ran\n")  # what the pull says is no output of the container
    assert str(err).startswith("Unable to find image '<secure>/bb:latest' locally\nlatest: Pulling from bb\n")


def test_a_helper_that_is_missing_is_said_and_the_request_goes_without(
    place: Place, configs: tuple[Path, Path]
) -> None:
    (configs[0] / "config.json").write_text('{"credsStore": "missing"}')
    place.told(LABKIT, "push -q {plain}/lib/bb", configs[1])
    status, out, err = place.told(LABKIT, "pull -q {plain}/lib/bb", configs[0])
    assert (status, out) == (0, "<plain>/lib/bb:latest\n")
    assert str(err).startswith("WARNING: error getting credentials - err: exec:")


def test_a_list_for_two_platforms_is_pulled_by_platform(place: Place, configs: tuple[Path, Path]) -> None:
    config = configs[0]
    place.told(LABKIT, "push -q {plain}/lib/bb", config)
    place.told(LABKIT, "tag labbb {plain}/lib/second", config)
    place.told(LABKIT, "push -q {plain}/lib/second", config)
    place.told(LABKIT, "manifest create {plain}/other/list {plain}/lib/bb {plain}/lib/second", config)
    assert place.told(LABKIT, "manifest annotate --arch s390x {plain}/other/list {plain}/lib/second", config)[0] == 0
    status, out, _ = place.told(LABKIT, "manifest push --purge {plain}/other/list", config)
    assert (status, str(out).count("Pushed ref")) == (0, 2)
    client = Client(place.engine)
    found = client.get(f"/distribution/{place.names['plain']}/other/list/json")
    client.close()
    assert [platform["architecture"] for platform in found["Platforms"]] == [place.names["arch"], "s390x"]
    assert place.told(LABKIT, "pull -q --platform s390x {plain}/other/list", config)[0] == 1
    assert place.told(LABKIT, "pull -q --platform linux/s390x {plain}/other/list", config)[0] == 0
    missing = str(place.told(LABKIT, "pull -q --platform linux/arm/v7 {plain}/other/list", config)[2])
    assert "no matching manifest for linux/arm/v7 in the manifest list entries" in missing


def typed(argv: list[str], environment: Mapping[str, str], *exchange: tuple[str, str], columns: int = 150) -> str:
    """All that a terminal shows of a command, where what is expected is answered."""
    child = pexpect.spawn(
        argv[0], argv[1:], env=dict(environment), timeout=30, dimensions=(30, columns), encoding="utf-8"
    )
    shown = ""
    try:
        for prompt, answer in exchange:
            child.expect_exact(prompt)
            shown += child.before + child.after
            child.sendline(answer)
        child.expect(pexpect.EOF)
        return str(shown + child.before)
    finally:
        child.close(force=True)


def test_a_password_is_asked_for_unseen(place: Place, configs: tuple[Path, Path]) -> None:
    environment = {**os.environ, "DOCKER_CONFIG": str(configs[0]), "DOCKER_CLI_HINTS": "false"}
    login = ["login", place.names["secure"]]
    asked = (("Username: ", USER), ("Password: ", PASSWORD))
    shown = typed([*LABKIT, *login], environment, *asked)
    assert shown.startswith(f"Username: {USER}\r\nPassword: \r\n")
    assert shown.endswith("\r\nLogin Succeeded\r\n")
    again = typed([*LABKIT, *login], environment)
    assert "\x1b[96mInfo → " in again
    (configs[0] / "config.json").write_text(
        json.dumps({"auths": {place.names["secure"]: {"auth": "bGVhcm5lcjp3cm9uZw=="}}})
    )
    expired = typed([*LABKIT, *login], environment, (f"Username ({USER}): ", ""), ("Password: ", PASSWORD))
    assert "Stored credentials invalid or expired\r\n" in expired
    assert expired.endswith("Login Succeeded\r\n")
    assert typed([*LABKIT, *login[:1], "-u", "x", login[1]], environment, ("Password: ", "")).endswith(
        "Error: Password Required\r\n"
    )


PROGRESS = [
    {"status": "Pulling from lib/x", "id": "latest"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaaa"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "bbbb"},
    {"status": "Downloading", "progressDetail": {"current": 1200, "total": 99_000}, "progress": "[>]", "id": "aaaa"},
    {"status": "Downloading", "progressDetail": {"current": 99_000, "total": 99_000}, "progress": "[>]", "id": "aaaa"},
    {"status": "Downloading", "progressDetail": {"current": 1_500_000}, "progress": "1.5MB", "id": "bbbb"},
    {"status": "Extracting", "progressDetail": {"current": 12, "total": 10}, "progress": "[>]", "id": "bbbb"},
    {"status": "Pull complete", "progressDetail": {}, "id": "aaaa"},
    {"status": "Already exists", "progressDetail": {}, "id": "cccc"},
    {"status": "Digest: sha256:" + "a" * 64},
    {"status": "Waiting", "progressDetail": {}, "id": "dddd"},
    {"status": "Status: Downloaded newer image for lib/x:latest"},
]


@pytest.mark.parametrize("columns", [150, 100])
def test_bars_are_drawn_as_docker_draws_them(columns: int, tmp_path: Path) -> None:
    """Byte for byte, of the same messages, on a wide and on a narrow terminal."""

    def answer(asked: Asked) -> None:
        body = b"".join(json.dumps(message).encode() + b"\r\n" for message in PROGRESS)
        if asked.path.endswith("/_ping"):
            asked.say(200, b"OK", Api_Version="1.50", OSType="linux")
        else:
            asked.say(200, body, Content_Type="application/json")

    with scripted(answer) as server:
        environment = {**os.environ, "DOCKER_HOST": f"tcp://{server.host}", "DOCKER_CONFIG": str(tmp_path)}
        environment |= {"DOCKER_CLI_HINTS": "false"}
        words = ["pull", "127.0.0.1:1/lib/x"]
        if recorded.is_installed():
            theirs = typed(["docker", *words], environment, columns=columns)
            recorded.check("bars", str(columns), theirs)
        assert typed([*LABKIT, *words], environment, columns=columns) == recorded.answers("bars")[str(columns)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("busybox", Name("docker.io", "library/busybox")),
        ("me/busybox:1", Name("docker.io", "me/busybox", "1")),
        ("index.docker.io/a", Name("docker.io", "library/a")),
        ("localhost/a", Name("localhost", "a")),
        ("[::1]:5000/a/b:c@sha256:" + "a" * 64, Name("[::1]:5000", "a/b", "c", "sha256:" + "a" * 64)),
    ],
)
def test_references(text: str, name: Name) -> None:
    assert read_name(text) == name


@pytest.mark.parametrize("text", ["", "a:", "a b", "a@sha256:12", "-a", "a//b", "a:b:c", "a" * 64])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid re"):
        read_name(text)
