"""`login` and `logout` (docker/cli `command/registry`): the engine tries credentials, the client keeps them."""

from __future__ import annotations

import os

from labkit.cli.authorizing import configuration
from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.session import Session
from labkit.client.credentials import HUB_SERVER, AuthConfig, Configuration, HelperError, hostname
from labkit.errors import InvalidParameter, LabkitError, Unauthorized

_NO_ANSWER = "Error: Cannot perform an interactive login from a non TTY device"
_HUB_HINT = (
    "Log in with your Docker ID or email address to push and pull images from Docker Hub. If you don't have a Docker "
    "ID, head over to https://hub.docker.com/ to create one.\n"
)
_TOKEN_HINT = "A Personal Access Token (PAT) can be used instead.\nTo create a PAT, visit {}\n\n"
_PLAIN_TEXT = """
WARNING! Your credentials are stored unencrypted in '{}'.
Configure a credential helper to remove this warning. See
https://docs.docker.com/go/credential-store/

"""


def login(session: Session, given: Invocation) -> None:
    user, password = given.text("username"), _given_password(session, given)
    kept = configuration(session)
    server = given.arguments[0] if given.arguments else HUB_SERVER
    server = HUB_SERVER if server == "docker.io" else server
    known = _known(session, kept, server) if not user and not password else AuthConfig()
    if known.username and known.password and (status := _log_in_again(session, kept, known)):
        session.out(f"{status}\n")
        return
    auth = _asked(session, AuthConfig(user, password, serveraddress=server), known.username)
    session.out(f"{_log_in(session, kept, auth)}\n")


def _given_password(session: Session, given: Invocation) -> str:
    """The password of the options, or of standard input."""
    password = given.text("password")
    if not given.flag("password-stdin"):
        if password:
            session.err("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n")
        return password
    if password:
        raise StatusError("conflicting options: cannot specify both --password and --password-stdin")
    if not given.text("username"):
        raise StatusError("the --password-stdin option requires --username to be set")
    if session.streams.stdin is None:
        raise StatusError("there is no standard input here: leave --password-stdin out, and you will be asked")
    with open(session.streams.stdin, "rb", closefd=False) as file:
        return file.read().decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")


def _known(session: Session, kept: Configuration, server: str) -> AuthConfig:
    try:
        return kept.get(server)
    except HelperError as error:
        session.err(f"WARNING: {error}\n")
        return AuthConfig()


def _log_in_again(session: Session, kept: Configuration, known: AuthConfig) -> str:
    """Tries stored credentials; the status to show, or "" if they are no good any more."""
    session.err(f"Authenticating with existing credentials... [Username: {known.username}]\n")
    program = session.program
    other = f"To login with a different account, run '{program} logout' followed by '{program} login'"
    session.err(note(other, session.streams.stderr_is_terminal) + "\n\n")
    try:
        return _log_in(session, kept, known)
    except Unauthorized:
        session.err("Stored credentials invalid or expired\n")
    except HelperError:
        raise
    except LabkitError as error:
        session.err(f"Login did not succeed, error: {error}\n")
    return ""


def _asked(session: Session, auth: AuthConfig, known_user: str) -> AuthConfig:
    """The credentials, with what is missing asked of the user. StatusError where nobody can be asked."""
    streams, is_hub = session.streams, auth.serveraddress == HUB_SERVER
    if auth.username and auth.password:
        return auth
    if not streams.asks:
        raise StatusError(_NO_ANSWER)
    user, password = auth.username, auth.password
    if not user:
        if is_hub:
            session.out(_HUB_HINT)
        user = streams.ask(f"Username ({known_user}): " if known_user else "Username: ").strip() or known_user
    if not user:
        raise StatusError("Error: Non-null Username Required")
    if not password:
        if is_hub:
            settings = "https://app.docker.com/settings"
            coloured = streams.stderr_is_terminal
            session.err(note(_TOKEN_HINT.format(f"\x1b[4m{settings}\x1b[0m" if coloured else settings), coloured))
        password = streams.ask("Password: ", hidden=True).strip()
    if not password:
        raise StatusError("Error: Password Required")
    return auth._replace(username=user, password=password)


def _log_in(session: Session, kept: Configuration, auth: AuthConfig) -> str:
    """Has the engine try credentials, and keeps them; the status to show."""
    answer = session.client.post("/auth", body=auth.fields())
    if token := answer.get("IdentityToken"):
        auth = auth._replace(password="", identitytoken=token)
    try:
        in_plain_text = kept.store(auth)
    except (HelperError, InvalidParameter) as error:
        raise StatusError(f"Error saving credentials: {error}") from error
    if in_plain_text:
        session.err(_PLAIN_TEXT.format(os.path.abspath(kept.path)))
    return str(answer["Status"])


def note(text: str, coloured: bool) -> str:
    """A remark, laid out as docker's `tui` package does it."""
    first, *others = text.split("\n")
    if not coloured:
        return "".join([f"\n Info -> {first}\n", *(f"         {one}\n" for one in others)])
    head = "\x1b[1m\x1b[106m\x1b[30mi\x1b[0m\x1b[0m \x1b[96mInfo → \x1b[0m\x1b[0m"
    return "".join([f"\n{head}\x1b[3m{first}\x1b[0m\n", *(f"         \x1b[3m{one}\x1b[0m\n" for one in others)])


def logout(session: Session, given: Invocation) -> None:
    server = given.arguments[0] if given.arguments else HUB_SERVER
    host = hostname(server) if given.arguments else server
    names = [server, host, f"http://{host}", f"https://{host}"] if given.arguments else [server]
    kept = configuration(session)
    session.out(f"Removing login credentials for {host}\n")
    failures: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            kept.erase(name)
        except (HelperError, InvalidParameter) as error:
            failures[name] = str(error)
    if len(failures) == len(set(names)):
        told = "".join(f"{name}: {problem}\n" for name, problem in failures.items())
        session.err(f"WARNING: could not erase credentials:\n{told}")
