"""The flags of `labkit daemon`, named as dockerd's."""

from __future__ import annotations

import argparse
import os

from labkit.api import listening

CONFIGURATION = "/etc/labkit/daemon.json"
LEVELS = ("debug", "info", "warn", "error")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="labkit daemon", description="Serve the Docker Engine API.")
    add = found.add_argument
    listening.add_flags(found)
    add("--config-file", default=CONFIGURATION, metavar="FILE", help=f"directives, as JSON (default: {CONFIGURATION})")
    add("--validate", action="store_true", help="check flags and configuration file, and exit")
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
    add("-l", "--log-level", default="info", choices=LEVELS, help="how much to log")
    add("-D", "--debug", action="store_true", help="log at the level `debug`")
    add("--label", action="append", default=[], metavar="NAME=VALUE", help="a label of the daemon, for `docker info`")
    add("--ready-fd", type=int, default=-1, help="descriptor to write `ready` to when the daemon listens")
    return found
