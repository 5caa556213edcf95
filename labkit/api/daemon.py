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
from functools import partial

import uvloop

from labkit.api import (
    archive,
    captures,
    commit,
    comparisons,
    configuration,
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
from labkit.engine.settings import Settings
from labkit.errors import Forbidden, LabkitError

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


def main(argv: list[str]) -> int:
    """Run the daemon until SIGTERM or SIGINT. Returns the exit status."""
    try:
        options, given = configuration.options(argv)
        settings = configuration.settings_of(options)
        logging.basicConfig(
            level=level(settings, options.log_level), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        hosts = options.host or [f"unix://{settings.exec_root}/labkit.sock"]
        tls = listening.tls_options(options)
        check(settings, hosts, tls)
        if options.validate:
            print("configuration OK", file=sys.stderr)
            return 0
        pidfile = options.pidfile or os.path.join(settings.exec_root, "labkit.pid")
        uvloop.run(serve(settings, hosts, tls, pidfile, options.ready_fd, partial(reload, given, options)))
    except LabkitError as error:
        print(f"labkit daemon: {error}", file=sys.stderr)
        return 1
    return 0


def level(settings: Settings, name: str) -> str:
    """The level of logging's; `debug` comes before what was chosen."""
    return "DEBUG" if settings.debug else name.upper().replace("WARN", "WARNING")


def check(settings: Settings, hosts: list[str], tls: TlsOptions) -> None:
    """Raises LabkitError for what can't be."""
    log_options.check(settings.log)
    runtimes.check(settings)
    listening.check(hosts, tls)
    listening.tls_context(tls)


def reload(given: configuration.Given, options: argparse.Namespace, engine: Engine) -> None:
    """SIGHUP: read the configuration file again. One that is wrong changes nothing."""
    log.info("got signal to reload configuration, reloading from: %s", options.config_file)
    try:
        engine.reconfigure(configuration.reloaded(engine.settings, given, options.config_file))
    except LabkitError as error:
        log.error("%s", error)
        return
    logging.getLogger().setLevel(level(engine.settings, options.log_level))


async def serve(
    settings: Settings,
    hosts: list[str],
    tls: TlsOptions,
    pidfile: str,
    ready: int,
    hung_up: Callable[[Engine], None],
) -> None:
    """Boot the engine, serve it, shut it down in order. `hung_up` is called at each SIGHUP."""
    if os.geteuid() != 0:
        raise Forbidden("the daemon needs root to make namespaces, mounts and cgroups: run it with sudo")
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
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up, engine)
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
