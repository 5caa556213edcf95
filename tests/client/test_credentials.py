"""`~/.docker/config.json` and credential helpers: read, kept, forgotten, and what is wrong with them said."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.client.credentials import HUB_SERVER, AuthConfig, HelperError, directory, hostname, load, server_of
from labkit.errors import InvalidParameter

SERVER = "registry.example:5000"
LEARNER = AuthConfig("learner", "secret", serveraddress=SERVER)
_HELPER = """#!/bin/sh
read -r given
echo "$1 $given" >> {log}
{body}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file of these tests, which isn't there yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    (tmp_path / "docker").mkdir()
    return tmp_path / "docker/config.json"


def write(file: Path, **document: object) -> None:
    file.write_text(json.dumps(document))


def helper(tmp_path: Path, body: str, name: str = "fake") -> Path:
    """A credential helper; returns the file that it notes in what it was asked."""
    program, log = tmp_path / f"bin/docker-credential-{name}", tmp_path / "asked"
    program.write_text(_HELPER.format(log=log, body=body))
    program.chmod(0o755)
    return log


def encoded(pair: str) -> str:
    return base64.b64encode(pair.encode()).decode()


@pytest.mark.parametrize(
    ("image", "server"),
    [
        ("busybox", HUB_SERVER),
        ("me/busybox:1", HUB_SERVER),
        ("docker.io/me/busybox", HUB_SERVER),
        ("index.docker.io/me/busybox", HUB_SERVER),
        ("localhost/busybox", "localhost"),
        ("127.0.0.1:5000/a/b@sha256:" + "a" * 64, "127.0.0.1:5000"),
        ("quay.io/a", "quay.io"),
    ],
)
def test_an_image_names_the_server_whose_credentials_it_takes(image: str, server: str) -> None:
    assert server_of(image) == server


def test_what_was_stored_is_found_again_in_dockers_own_file(file: Path) -> None:
    assert load().get(SERVER).is_anonymous
    assert load().store(LEARNER)
    assert load().get(SERVER) == LEARNER
    assert json.loads(file.read_text()) == {"auths": {SERVER: {"auth": encoded("learner:secret")}}}
    load().erase(SERVER)
    assert load().get(SERVER).is_anonymous
    assert json.loads(file.read_text()) == {"auths": {}}


def test_what_we_do_not_know_stays(file: Path) -> None:
    write(file, HttpHeaders={"a": "b"}, new=[1], auths={"other": {"auth": encoded("a:b"), "email": "a@b"}})
    load().store(LEARNER)
    load().erase(SERVER)
    assert json.loads(file.read_text()) == {
        "HttpHeaders": {"a": "b"}, "new": [1], "auths": {"other": {"auth": encoded("a:b"), "email": "a@b"}}
    }  # fmt: skip


def test_only_the_owner_may_read_it_and_a_link_stays_a_link(file: Path) -> None:
    target = file.parent / "elsewhere.json"
    target.write_text("{}")
    target.chmod(0o644)
    file.symlink_to(target)
    load().store(LEARNER)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert file.is_symlink()
    assert sorted(path.name for path in file.parent.iterdir()) == ["config.json", "elsewhere.json"]


def test_storing_again_what_is_there_is_no_news(file: Path) -> None:
    assert load().store(LEARNER)
    before = file.stat().st_ino
    assert not load().store(LEARNER)
    assert file.stat().st_ino == before


def test_tokens(file: Path) -> None:
    load().store(LEARNER._replace(password="", identitytoken="id"))
    entry = json.loads(file.read_text())["auths"][SERVER]
    assert entry == {"auth": encoded("learner:"), "identitytoken": "id"}
    assert load().get(SERVER).identitytoken == "id"
    write(file, auths={SERVER: {"registrytoken": "bearer"}})
    assert load().get(SERVER).registrytoken == "bearer"


def test_a_server_written_as_a_url_by_an_older_docker(file: Path) -> None:
    assert hostname("https://a.b:1/v1/") == "a.b:1"
    write(file, auths={f"https://{SERVER}/v1/": {"auth": encoded("learner:secret\0\0")}})
    assert load().get(SERVER) == LEARNER


def test_the_header_holds_what_isnt_empty_and_the_anonymous_have_none() -> None:
    assert AuthConfig(serveraddress=SERVER).headers() == {}
    sent = LEARNER.headers()["X-Registry-Auth"]
    assert json.loads(base64.urlsafe_b64decode(sent)) == {
        "username": "learner", "password": "secret", "serveraddress": SERVER
    }  # fmt: skip


def test_secrets_do_not_show_in_a_traceback() -> None:
    assert "secret" not in repr(LEARNER._replace(identitytoken="secret", registrytoken="secret"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{broken", "invalid character 'b' looking for beginning of object key string"),
        ('{"auths": ', "unexpected EOF"),
        ("nonsense", "invalid character 'n' looking for beginning of value"),
        ("[]", "json: cannot unmarshal array into Go value of type configfile.ConfigFile"),
        (
            '{"auths": {"x": "y"}}',
            "json: cannot unmarshal string into Go struct field ConfigFile.auths of type types.AuthConfig",
        ),
        ('{"auths": {"x": {"auth": "!!"}}}', "illegal base64 data at input byte 0"),
        ('{"auths": {"x": {"auth": "eA=="}}}', "Invalid auth configuration file"),
        ('{"auths": {"x": {"auth": 1}}}', "json: cannot unmarshal into Go struct field AuthConfig of type string"),
        ('{"credHelpers": []}', "json: cannot unmarshal array into Go struct field ConfigFile.credHelpers"),
        ("", None),
        ("{} trailing", None),
    ],
)
def test_a_file_that_cannot_be_read_counts_as_empty_and_is_not_overwritten(
    file: Path, text: str, problem: str | None
) -> None:
    file.write_text(text)
    found = load()
    if problem is None:
        assert found.problem == ""
        return
    assert found.problem == f"Error parsing config file ({file}): {problem}"
    assert found.get(SERVER).is_anonymous
    with pytest.raises(InvalidParameter, match="is left as it is"):
        found.store(LEARNER)
    assert file.read_text() == text


def test_a_configuration_that_is_no_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.touch()
    monkeypatch.setenv("DOCKER_CONFIG", str(file))
    assert load().problem == f"Error loading config file: open {file}/config.json: not a directory"


def test_home_may_be_unset_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", "/somewhere")
    assert directory() == "/somewhere/.docker"
    monkeypatch.delenv("HOME")
    assert directory() == os.path.join(os.path.expanduser("~"), ".docker")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)  # a user whom /etc/passwd doesn't know
    assert directory() == ""
    assert load().get(SERVER).is_anonymous
    with pytest.raises(InvalidParameter, match="set HOME or DOCKER_CONFIG"):
        load().store(LEARNER)


def test_a_helper_keeps_the_secret(file: Path, tmp_path: Path) -> None:
    answer = json.dumps({"ServerURL": SERVER, "Username": "learner", "Secret": "secret"})
    log = helper(tmp_path, f"[ $1 != get ] || echo '{answer}'")
    write(file, credHelpers={SERVER: "fake"}, credsStore="missing")
    assert not load().store(LEARNER)
    assert "secret" not in file.read_text()
    assert json.loads(file.read_text())["auths"] == {SERVER: {}}
    assert load().get(SERVER) == LEARNER
    load().erase(SERVER)
    stored = json.dumps({"ServerURL": SERVER, "Username": "learner", "Secret": "secret"})
    assert log.read_text().splitlines() == [f"store {stored}", f"get {SERVER}", f"erase {SERVER}"]
    assert json.loads(file.read_text())["auths"] == {}


def test_an_identity_token_is_a_helpers_secret_of_a_user_called_token(file: Path, tmp_path: Path) -> None:
    log = helper(tmp_path, """[ $1 != get ] || echo '{"Username": "<token>", "Secret": "id"}'""")
    write(file, credsStore="fake")
    load().store(LEARNER._replace(password="", identitytoken="id"))
    assert '"Username": "<token>", "Secret": "id"' in log.read_text()
    assert load().get(SERVER) == AuthConfig(identitytoken="id", serveraddress=SERVER)


def test_credentials_that_a_helper_does_not_have_are_no_error(file: Path, tmp_path: Path) -> None:
    helper(tmp_path, "echo credentials not found in native keychain; exit 1")
    write(file, credsStore="fake")
    assert load().get(SERVER).is_anonymous


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo locked; exit 3", "error getting credentials - err: exit status 3, out: `locked`"),
        ("kill -9 $$", "error getting credentials - err: signal 9, out: ``"),
        ("echo nonsense", "error getting credentials - docker-credential-fake answered no credentials"),
        ("echo '[]'", "error getting credentials - docker-credential-fake answered no credentials"),
    ],
)
def test_a_helper_that_fails(file: Path, tmp_path: Path, body: str, message: str) -> None:
    helper(tmp_path, body)
    write(file, credsStore="fake")
    with pytest.raises(HelperError) as raised:
        load().get(SERVER)
    assert str(raised.value) == message


def test_a_helper_that_is_missing(file: Path) -> None:
    write(file, credsStore="missing")
    reason = 'err: exec: "docker-credential-missing": executable file not found in $PATH, out: ``'
    with pytest.raises(HelperError) as raised:
        load().store(LEARNER)
    assert str(raised.value) == f"error storing credentials - {reason}"


def test_where_nothing_is_configured_dockers_default_helper_is_used_if_there_is_one(file: Path, tmp_path: Path) -> None:
    log = helper(tmp_path, "exit 0", "secretservice")
    assert not load().store(LEARNER)
    assert log.read_text().startswith("store ")
    write(file, auths={"other": {}})  # a file that holds credentials has decided already
    assert load().store(LEARNER)


def test_docker_reads_what_we_write(file: Path) -> None:
    """docker says whether it parsed the file; it prints a warning if not."""
    load().store(LEARNER)
    environment = {**os.environ, "DOCKER_CONFIG": str(file.parent)}
    done = subprocess.run(["docker", "logout", SERVER], capture_output=True, text=True, env=environment, timeout=30)
    assert (done.stderr, done.stdout.strip()) == ("", f"Removing login credentials for {SERVER}")
    assert load().get(SERVER).is_anonymous


def test_reading_needs_no_subprocess(file: Path) -> None:
    write(file, auths={SERVER: {"auth": encoded("a:b")}})
    code = "import sys; from labkit.client.credentials import load; load().get('x'); print('subprocess' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
