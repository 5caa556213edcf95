"""Root filesystems of Debian packages, by mmdebstrap(1): a minimal Debian, and packages on top of one.

A base is a new tree. An image on it is built as `docker build` does it: overlayfs with the base below, apt and dpkg
above, and the upper directory is the layer. All of it runs in mount and PID namespaces of its own, so that nothing
stays mounted or goes on running, whatever happens. Packages come from the Debian mirror that this machine's apt uses.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from labkit.errors import InvalidParameter, LabkitError, Unavailable
from labkit.registry.hub.layers import files_tar
from labkit.registry.hub.recipes import SUITE, Recipe

Say = Callable[[str], None]
"""Takes one line of progress."""

_DEFAULT = {"debian": "http://deb.debian.org/debian", "debian-security": "http://deb.debian.org/debian-security"}
_EPOCH = "1686355200"  # SOURCE_DATE_EPOCH: 2023-06-10, when bookworm came out; the day of passwords in /etc/shadow
_KEYRING = "apt-get install debian-archive-keyring"
_OPTIONS = (
    "--variant=minbase",
    '--aptopt=Acquire::Languages "none"',
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "info", "locale", "lintian")),
    "--dpkgopt=path-include=/usr/share/locale/locale.alias",
)
PACKAGES = "usr/share/labkit/packages"
"""The file of an image that lists its packages: NAME VERSION."""
_LIST = f"""mkdir -p "$1/usr/share/labkit"
chroot "$1" dpkg-query -W -f '${{Package}} ${{Version}}\\n' | LC_ALL=C sort >"$1/{PACKAGES}" """
_OVERLAY = """mount -t overlay overlay -o "redirect_dir=off,metacopy=off,lowerdir=$1,upperdir=upper,workdir=overlay" \\
    root
rm -f root/etc/apt/sources.list  # mmdebstrap would leave the base's
shift
exec "$@" """
_UNREACHABLE = re.compile(
    r"Could not resolve|Could not connect|Unable to connect|Connection (failed|refused|timed out)|404  "
)


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory that mmdebstrap wrote, overlayfs's upper one if it stands on others."""

    path: Path
    packages: dict[str, str] = field(default_factory=dict)


def sources(mirrors: Sequence[str]) -> tuple[str, ...]:
    """The lines of sources.list(5): of these mirrors (URLs, or lines as they are), or of the one that apt uses here.

    Raises InvalidParameter for what is no URL, or has a password, which everybody could read in the image.
    """
    if not mirrors:
        own = _own_mirrors()
        main, security = own["debian"], own["debian-security"]
        return (
            f"deb {main} {SUITE} main",
            f"deb {main} {SUITE}-updates main",
            f"deb {security} {SUITE}-security main",
        )
    return tuple(mirror if mirror.startswith("deb ") else f"deb {_checked(mirror)} {SUITE} main" for mirror in mirrors)


def _checked(mirror: str) -> str:
    parts = urlsplit(mirror)
    if parts.scheme not in ("http", "https", "file", "copy") or parts.username or re.search(r"\s", mirror):
        raise InvalidParameter(f"invalid mirror {mirror!r}: a URL such as {_DEFAULT['debian']} is needed, without user")
    return mirror


def _own_mirrors() -> dict[str, str]:
    """Where apt of this machine finds Debian, by the last part of the path; Debian's own where it finds none."""
    apt = shutil.which("apt-get")
    command = [apt or "", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.split() if apt else []
    own: dict[str, str] = {}
    for url in (url.rstrip("/") for url in found):
        name = url.rpartition("/")[2]
        if name in _DEFAULT and url.startswith(("http://", "https://")) and not urlsplit(url).username:
            own.setdefault(name, url)
    return _DEFAULT | own


def bootstrap(recipe: Recipe, work: Path, mirrors: Sequence[str], say: Say) -> Tree:
    """A minimal Debian below `work`, which is empty. Raises Unavailable, LabkitError."""
    (work / "root").mkdir()
    _run(["sh", "-c", 'exec "$@"', "sh"], recipe, work, _OPTIONS, mirrors, say)
    return Tree(work / "root", read_packages(work / "root"))


def install(recipe: Recipe, lower: Sequence[Path], work: Path, mirrors: Sequence[str], say: Say) -> Tree:
    """A recipe's packages on top of directories (topmost first), as an upper directory below `work`, which is empty."""
    for name in ("root", "upper", "overlay"):
        (work / name).mkdir()
    for number, directory in enumerate(lower):
        (work / f"lower{number}").symlink_to(directory)  # mount options take no colons
    stack = ":".join(f"lower{number}" for number in range(len(lower)))
    options = ("--variant=custom", "--skip=check/empty", f"--include={','.join(recipe.packages)}")
    _run(["sh", "-euc", _OVERLAY, "sh", stack], recipe, work, options, mirrors, say)
    _drop_equal(work / "upper", lower, "etc/apt/sources.list")
    return Tree(work / "upper", read_packages(work / "upper"))


def _drop_equal(upper: Path, lower: Sequence[Path], path: str) -> None:
    """Removes a file of the upper directory that is as it was below."""
    below = next((layer / path for layer in lower if (layer / path).is_file()), None)
    if below and (upper / path).is_file() and (upper / path).read_bytes() == below.read_bytes():
        (upper / path).unlink()


def read_packages(tree: Path) -> dict[str, str]:
    """Names and versions of all packages, as an image lists them."""
    lines = (tree / PACKAGES).read_text(encoding="utf-8").splitlines()
    return {name: version for name, _, version in (line.partition(" ") for line in lines)}


def _run(
    start: Sequence[str], recipe: Recipe, work: Path, options: Sequence[str], mirrors: Sequence[str], say: Say
) -> None:
    """mmdebstrap on `work`/root, with the recipe's files, in namespaces that end with it."""
    program = shutil.which("mmdebstrap")
    if not program:
        raise Unavailable("labkit hub makes images with mmdebstrap, which isn't installed: apt-get install mmdebstrap")
    # Dated in the future, they count as the build's own and get the time of the newest packaged file.
    (work / "files.tar").write_bytes(files_tar(recipe.files, recipe.links, 2**33 - 1))
    hooks = (f"--customize-hook={_LIST}", "--customize-hook=tar-in files.tar /")
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*namespaces, *start, program, "--mode=root", "--format=directory", *options, *hooks, SUITE, "root"]
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SOURCE_DATE_EPOCH": _EPOCH,
        "TMPDIR": str(work),
        "LC_ALL": "C.UTF-8",
    }
    _watch([*command, *sources(mirrors)], recipe.name, work, environment, say)


def _watch(command: Sequence[str], name: str, work: Path, environment: dict[str, str], say: Say) -> None:
    """Runs a command to its end and passes on what it does. Raises Unavailable or LabkitError in its own words."""
    last: deque[str] = deque(maxlen=40)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=work,
        env=environment,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout
        for line in process.stdout:
            last.append(line.rstrip())
            if line.startswith("I: ") and line.rstrip().endswith("..."):
                say(line[3:].rstrip().removesuffix("..."))
    if process.returncode:
        raise _failure(name, list(last))


def _failure(name: str, lines: Sequence[str]) -> LabkitError:
    reasons = [
        line for line in lines if re.match(r"(Err:|E:|W: .*NO_PUBKEY|dpkg: error|mount:|unshare:)|.*error:", line)
    ]
    reason = "; ".join(dict.fromkeys(reasons[:4])) or "; ".join(lines[-3:])
    if _UNREACHABLE.search("\n".join(lines)):
        return Unavailable(f"{name}: the Debian mirror can't be reached (--mirror URL names another one): {reason}")
    if "NO_PUBKEY" in "\n".join(lines):
        return Unavailable(f"{name}: Debian's keys are missing here ({_KEYRING}): {reason}")
    return LabkitError(f"{name}: mmdebstrap failed: {reason}")
