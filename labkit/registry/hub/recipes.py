"""What the hub's images consist of, as data: what a Dockerfile says, without a Dockerfile.

Names, ports, volumes, entry points and signals are those of Docker's official images (docker-library on GitHub), so
that a lesson works the same with either; what is inside are Debian's packages, or busybox, and labels say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from labkit.errors import NotFound
from labkit.images.manifests import ContainerConfig
from labkit.registry.hub import texts

SUITE = "bookworm"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEBIAN_VERSION = "12"


@dataclass(frozen=True, slots=True)
class File:
    """A file that no package brings."""

    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image. On an empty `base` stands what `system` names: busybox, or a minimal Debian.

    `versions_of` is a package whose version gives tags beside `tags`: 1.22.1, 1.22 and 1, and each with `variants`.
    Paths are relative to the root; `removed` may have globs. `config` adds to the configuration of the base.
    """

    name: str
    summary: str
    base: str = ""
    system: str = ""
    tags: tuple[str, ...] = ("latest",)
    versions_of: str = ""
    variants: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    files: Mapping[str, File] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    config: ContainerConfig = field(default_factory=ContainerConfig)

    @property
    def path(self) -> str:
        """The repository on Docker Hub: official images are in `library`."""
        return self.name if "/" in self.name else f"library/{self.name}"


_BUSYBOX = Recipe(
    "busybox",
    "busybox-static of this machine, with a link for each applet",
    system="busybox",
    config=ContainerConfig(cmd=["sh"], env=[_PATH]),
)

_ALPINE = Recipe(
    "alpine",
    "as small as Alpine, but it is busybox: no apk, no musl",
    base="busybox",
    files={"etc/os-release": File(texts.MINIMAL_RELEASE), "etc/motd": File(texts.MINIMAL_GREETING)},
    config=ContainerConfig(cmd=["/bin/sh"]),
)

_HELLO = Recipe(
    "hello-world",
    "prints a greeting, and what had to happen for it",
    base="busybox",
    tags=("latest", "linux"),
    files={"hello": File(texts.HELLO)},
    config=ContainerConfig(cmd=["cat", "/hello"]),
)

_WHOAMI = Recipe(
    "traefik/whoami",
    "a web server that answers which container it is, on port 80",
    base="busybox",
    files={"www/cgi-bin/index.cgi": File(texts.WHOAMI, 0o755)},
    config=ContainerConfig(entrypoint=["httpd", "-f", "-p", "80", "-h", "/www"], cmd=[], exposed_ports={"80/tcp": {}}),
)

_DEBIAN = Recipe(
    "debian",
    f"Debian {_DEBIAN_VERSION} ({SUITE}) with apt, without documentation",
    system="debian",
    tags=("latest", _DEBIAN_VERSION, f"{_DEBIAN_VERSION}-slim", SUITE, f"{SUITE}-slim"),
    files={"usr/sbin/policy-rc.d": File(texts.POLICY, 0o755)},
    config=ContainerConfig(cmd=["bash"], env=[_PATH]),
)

_NGINX = Recipe(
    "nginx",
    "Debian's nginx on port 80; pages are in /usr/share/nginx/html",
    base="debian",
    versions_of="nginx",
    packages=("nginx-light",),
    files={
        "docker-entrypoint.sh": File(texts.NGINX_ENTRYPOINT, 0o755),
        "docker-entrypoint.d/README": File(texts.NGINX_ENTRYPOINT_README),
        "etc/nginx/conf.d/default.conf": File(texts.NGINX_SITE),
        "usr/share/nginx/html/index.html": File(texts.NGINX_WELCOME),
        "usr/share/nginx/html/50x.html": File(texts.NGINX_ERROR),
    },
    links={"var/log/nginx/access.log": "/dev/stdout", "var/log/nginx/error.log": "/dev/stderr"},
    removed=("etc/nginx/sites-enabled/default", "var/www/html/index.nginx-debian.html"),
    config=ContainerConfig(
        exposed_ports={"80/tcp": {}},
        entrypoint=["/docker-entrypoint.sh"],
        cmd=["nginx", "-g", "daemon off;"],
        stop_signal="SIGQUIT",
    ),
)

_GETTING_STARTED = Recipe(
    "docker/getting-started",
    "a small site on port 80, to have something to run",
    base="nginx",
    files={
        "usr/share/nginx/html/index.html": File(texts.SITE_INDEX),
        "usr/share/nginx/html/next.html": File(texts.SITE_NEXT),
        "usr/share/nginx/html/style.css": File(texts.SITE_STYLE),
    },
)

_REDIS = Recipe(
    "redis",
    "Debian's redis on port 6379; it keeps its data in the volume /data",
    base="debian",
    versions_of="redis-server",
    packages=("redis-server",),
    files={"usr/local/bin/docker-entrypoint.sh": File(texts.REDIS_ENTRYPOINT, 0o755)},
    config=ContainerConfig(
        exposed_ports={"6379/tcp": {}},
        volumes={"/data": {}},
        working_dir="/data",
        entrypoint=["docker-entrypoint.sh"],
        cmd=["redis-server"],
    ),
)

_POSTGRES_VERSION = "15"
_POSTGRES = Recipe(
    "postgres",
    "Debian's PostgreSQL on port 5432, without its compiler for queries; its data is a volume",
    base="debian",
    versions_of=f"postgresql-{_POSTGRES_VERSION}",
    packages=(f"postgresql-{_POSTGRES_VERSION}",),
    files={
        "usr/local/bin/docker-entrypoint.sh": File(texts.POSTGRES_ENTRYPOINT, 0o755),
        "docker-entrypoint-initdb.d/README": File("Scripts (*.sh, *.sql) for a new cluster go here.\n"),
        "etc/postgresql-common/createcluster.conf": File("create_main_cluster = false\n"),
    },
    # LLVM is larger than all else, and speeds up long queries only: PostgreSQL does without it.
    removed=(
        "usr/lib/*/libLLVM*", "usr/lib/llvm-*", "usr/lib/*/libz3.so*",
        f"usr/lib/postgresql/{_POSTGRES_VERSION}/lib/bitcode", f"usr/lib/postgresql/{_POSTGRES_VERSION}/lib/llvmjit*",
        f"var/lib/postgresql/{_POSTGRES_VERSION}",
        "etc/ssl/certs/ssl-cert-snakeoil.pem", "etc/ssl/private/ssl-cert-snakeoil.key",  # made new at each build
    ),
    config=ContainerConfig(
        exposed_ports={"5432/tcp": {}},
        volumes={"/var/lib/postgresql/data": {}},
        env=[
            f"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/{_POSTGRES_VERSION}/bin",
            f"PG_MAJOR={_POSTGRES_VERSION}", "PGDATA=/var/lib/postgresql/data", "LANG=C.UTF-8",
        ],
        entrypoint=["docker-entrypoint.sh"],
        cmd=["postgres"],
        stop_signal="SIGINT",
    ),
)  # fmt: skip

_PYTHON = Recipe(
    "python",
    "Debian's Python 3 with pip and venv",
    base="debian",
    tags=("latest", "slim", SUITE, f"slim-{SUITE}"),
    versions_of="python3",
    variants=("slim", SUITE, f"slim-{SUITE}"),
    packages=("python3", "python3-pip", "python3-venv", "ca-certificates"),
    links={"usr/bin/python": "python3"},
    removed=("usr/lib/python3*/EXTERNALLY-MANAGED",),  # pip may install: the image has no other administrator
    config=ContainerConfig(cmd=["python3"], env=["LANG=C.UTF-8"]),
)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (_BUSYBOX, _ALPINE, _HELLO, _WHOAMI, _DEBIAN, _NGINX, _GETTING_STARTED, _REDIS, _POSTGRES, _PYTHON)
}


def find(name: str) -> Recipe:
    """The recipe of a name; `getting-started` is `docker/getting-started`. Raises NotFound."""
    found = [recipe for recipe in RECIPES.values() if name in (recipe.name, recipe.name.rpartition("/")[2])]
    if not found:
        raise NotFound(f"labkit hub has no recipe for {name!r}; it has: {', '.join(RECIPES)}")
    return found[0]


def ordered(names: Iterable[str]) -> tuple[Recipe, ...]:
    """The recipes of these names, each once, a base before what stands on it. Raises NotFound."""
    wanted = {find(name).name for name in names}
    return tuple(recipe for recipe in RECIPES.values() if recipe.name in wanted)


def tags(recipe: Recipe, versions: Mapping[str, str]) -> tuple[str, ...]:
    """All tags, given the versions of the packages that are in the image."""
    found = list(recipe.tags)
    upstream = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", versions.get(recipe.versions_of, ""))
    if upstream:
        parts = upstream[1].split(".")
        for count in range(len(parts), 0, -1):
            version = ".".join(parts[:count])
            found += [version, *(f"{version}-{variant}" for variant in recipe.variants)]
    return tuple(dict.fromkeys(found))


def merged(base: ContainerConfig, own: ContainerConfig) -> ContainerConfig:
    """The configuration of an image on a base: what it says itself counts, and collections add up.

    As in a Dockerfile, an entry point of its own takes the base's command away.
    """
    fields = {
        name: value
        for name in own.__struct_fields__
        if (value := getattr(own, name)) != getattr(ContainerConfig(), name)
    }
    if own.entrypoint is not None and own.cmd is None:
        fields["cmd"] = None
    for name in ("env", "exposed_ports", "volumes", "labels"):
        before, added = getattr(base, name), getattr(own, name)
        if before and added:
            fields[name] = [*before, *added] if name == "env" else before | added
    return msgspec.structs.replace(base, **fields)
