"""`labkit daemon`: the process that serves the Engine API (moby `cmd/dockerd`). Flags are named as dockerd's."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

import uvloop

from labkit.api import (
    archive,
    captures,
    commit,
    comparisons,
    containers,
    exec,
    hub,
    images,
    listening,
    networks,
    registries,
    system,
    traces,
    transfers,
    usage,
    volumes,
)
from labkit.api.http import Route, Server
from labkit.api.listening import TlsOptions
from labkit.engine import runtimes
from labkit.engine.engine import Engine
from labkit.engine.logging import options as log_options
from labkit.engine.models import LogConfig
from labkit.engine.settings import Settings
from labkit.errors import Forbidden, LabkitError
from labkit.registry.endpoints import Settings as Registries

log = logging.getLogger("labkit.daemon")
MODULES: tuple[Callable[[Engine], list[Route]], ...] = (
    system.routes,
    containers.routes,
    commit.routes,
    archive.routes,
    exec.routes,
    images.routes,
    networks.routes,
    volumes.routes,
    registries.routes,
    transfers.routes,
    usage.routes,
    comparisons.routes,
    hub.routes,
    traces.routes,
    captures.routes,
)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="labkit daemon", description="Serve the Docker Engine API.")
    add = found.add_argument
    listening.add_flags(found)
    add("--data-root", default="/var/lib/labkit", help="where images and containers are kept")
    add("--exec-root", default="/run/labkit", help="where the state of running containers is kept")
    add("-p", "--pidfile", default="", help="file for the daemon's process ID (default: EXEC_ROOT/labkit.pid)")
    add("--bip", default="", metavar="CIDR", help="address of the default bridge, such as 10.9.0.1/16")
    add("--cgroup-parent", default="labkit", help="cgroup below which containers are put")
    add("--live-restore", action="store_true", help="let containers run on when the daemon ends")
    add("--registry-mirror", action="append", default=[], metavar="URL", help="ask this mirror before Docker Hub")
    add(
        "--hub",
        default=os.environ.get("LABKIT_HUB", ""),
        metavar="URL",
        help="a `labkit hub` that stands in for Docker "
        "Hub; `none` for none (default: $LABKIT_HUB, or the one of this machine)",
    )
    add("--insecure-registry", action="append", default=[], metavar="HOST|CIDR", help="do without (verified) TLS there")
    add("--add-runtime", action="append", default=[], metavar="NAME=PATH", help="an OCI runtime besides runc and crun")
    add("--default-runtime", default="labkit", metavar="NAME", help="the runtime of containers that name none")
    add("--log-driver", default="json-file", metavar="NAME", help="where the output of containers goes")
    add("--log-opt", action="append", default=[], metavar="NAME=VALUE", help="an option of that log driver")
    add("-l", "--log-level", default="info", choices=("debug", "info", "warn", "error"), help="how much to log")
    add("--ready-fd", type=int, default=-1, help="descriptor to write `ready` to when the daemon listens")
    return found


def main(argv: list[str]) -> int:
    """Run the daemon until SIGTERM or SIGINT. Returns the exit status."""
    options = parser().parse_args(argv)
    logging.basicConfig(
        level=options.log_level.upper().replace("WARN", "WARNING"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        settings = settings_of(options)
        pidfile = options.pidfile or os.path.join(settings.exec_root, "labkit.pid")
        hosts = options.host or [f"unix://{settings.exec_root}/labkit.sock"]
        uvloop.run(serve(settings, hosts, listening.tls_options(options), pidfile, options.ready_fd))
    except LabkitError as error:
        print(f"labkit daemon: {error}", file=sys.stderr)
        return 1
    return 0


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that the flags give. Raises InvalidParameter."""
    return Settings(
        os.path.abspath(options.data_root),
        os.path.abspath(options.exec_root),
        options.cgroup_parent.strip("/"),
        options.live_restore,
        Registries(tuple(options.registry_mirror), tuple(options.insecure_registry), hub=options.hub),
        options.bip,
        LogConfig(Type=options.log_driver, Config=dict(one.partition("=")[::2] for one in options.log_opt)),
        runtimes.parse(options.add_runtime),
        options.default_runtime,
    )


async def serve(settings: Settings, hosts: list[str], tls: TlsOptions, pidfile: str, ready: int) -> None:
    """Boot the engine, serve it, shut it down in order."""
    if os.geteuid() != 0:
        raise Forbidden("the daemon needs root to make namespaces, mounts and cgroups: run it with sudo")
    log_options.check(settings.log)
    runtimes.check(settings)
    listening.check(hosts, tls)
    listening.tls_context(tls)
    wanted = [host for host in hosts if listening.parse_host(host, tls.wanted)[0] == "tcp"]
    tcp = [sock for host in wanted for sock in listening.open_tcp(host, tls.wanted)]
    engine = Engine(settings)
    engine.boot()
    routes = [route for module in MODULES for route in module(engine)]
    server = Server(routes, traces.observer(engine))
    paths = await listen(server, hosts, tls, tcp)
    with open(pidfile, "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # requests make few cycles: looking for them seldom is enough
    told = _told_to_end()
    if ready >= 0:
        os.write(ready, b"ready\n")
        os.close(ready)
    log.info("API listen on %s", ", ".join(hosts))
    await told.wait()
    await _end(engine, server, [*paths, pidfile])


async def listen(server: Server, hosts: list[str], tls: TlsOptions, tcp: list[socket.socket]) -> list[str]:
    """Serve on the unix sockets of `hosts` and on bound TCP sockets; returns the paths of the former."""
    paths = []
    for host in hosts:
        kind, path, _ = listening.parse_host(host, tls.wanted)
        if kind == "unix":
            await server.serve(listening.open_unix(path))
            paths.append(path)
    context = listening.tls_context(tls)
    for sock in tcp:
        await server.serve(sock, context)
    return paths


def _told_to_end() -> asyncio.Event:
    """Set at the first signal that asks the daemon to end, from now on."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    return told


async def _end(engine: Engine, server: Server, paths: list[str]) -> None:
    log.info("shutting down")
    await engine.shut_down()
    await server.close()
    engine.close()
    for path in paths:
        if os.path.lexists(path):
            os.unlink(path)
