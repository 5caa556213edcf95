"""`version`, `info`, `events`: the engine as a whole (Engine API `SystemVersion`, `SystemInfo`, `SystemEvents`)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from labkit import __version__
from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.session import Session
from labkit.cli.tabwriter import align
from labkit.cli.units import ansi_date, api_timestamp, bytes_size
from labkit.client.engine import encode_filters
from labkit.errors import LabkitError
from labkit.templates.parsing import TemplateError, parse
from labkit.templates.rendering import execute

API_VERSION = "1.50"  # the newest that this client knows


def _tree(template: str) -> Any:
    try:
        return parse("{{json .}}" if template == "json" else template)
    except TemplateError as error:
        raise StatusError(f"template parsing error: {error}", 64) from error


def version(session: Session, given: Invocation) -> None:
    template = given.text("format")
    tree = _tree(template)
    client = {
        "Version": __version__,
        "ApiVersion": API_VERSION,
        "DefaultAPIVersion": API_VERSION,
        "PythonVersion": sys.version.split()[0],
        "Os": sys.platform,
        "Arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
    }
    server, failure = None, None
    try:
        server = _dated(session.client.get("/version"))
        client["ApiVersion"] = min(API_VERSION, server["ApiVersion"], key=_version_key)
    except LabkitError as error:
        failure = error
    if template:
        session.out(execute(tree, {"Client": client, "Server": server}, "", template) + "\n")
    else:
        text = _client_section(client) + ("\n" + _server_section(server) if server else "")
        session.out(align(text, 20, 1))
    if failure:
        raise failure


def _version_key(text: str) -> list[int]:
    return [int(part) for part in text.split(".")]


def _dated(server: dict[str, Any]) -> dict[str, Any]:
    for component in server.get("Components") or ():
        if component["Name"] == "Engine" and "BuildTime" in component["Details"]:
            component["Details"]["BuildTime"] = ansi_date(component["Details"]["BuildTime"])
    return server


def _client_section(client: Mapping[str, str]) -> str:
    default = client["DefaultAPIVersion"]
    downgraded = f" (downgraded from {default})" if client["ApiVersion"] != default else ""
    return (
        f"Client:\n Version:\t{client['Version']}\n API version:\t{client['ApiVersion']}{downgraded}\n"
        f" Python version:\t{client['PythonVersion']}\n OS/Arch:\t{client['Os']}/{client['Arch']}\n"
    )


def _server_section(server: Mapping[str, Any]) -> str:
    platform = (server.get("Platform") or {}).get("Name", "")
    lines = [f"Server: {platform}".rstrip()]
    for component in server.get("Components") or ():
        details: Mapping[str, Any] = component.get("Details") or {}
        lines.append(f" {component['Name']}:")
        lines.append(f"  Version:\t{component['Version']}")
        if component["Name"] == "Engine":
            minimum = details.get("MinAPIVersion", "")
            lines.append(f"  API version:\t{details.get('ApiVersion', '')} (minimum version {minimum})")
            # labkit's engine runs on Python and says so; Docker's says GoVersion.
            language = "Python" if "PythonVersion" in details else "Go"
            lines.append(f"  {language} version:\t{details.get(language + 'Version', '')}")
            lines.append(f"  Git commit:\t{details.get('GitCommit', '')}")
            lines.append(f"  Built:\t{details.get('BuildTime', '')}")
            lines.append(f"  OS/Arch:\t{details.get('Os', '')}/{details.get('Arch', '')}")
            lines.append(f"  Experimental:\t{details.get('Experimental', '')}")
        else:
            lines += [f"  {key}:\t{details[key]}" for key in sorted(details)]
    return "\n".join(lines) + "\n"


def info(session: Session, given: Invocation) -> None:
    template = given.text("format")
    tree = _tree(template)
    client = {"Version": __version__, "Context": "default", "Debug": False, "Plugins": [], "Warnings": None}
    if template:
        server = session.client.get("/info")
        session.out(execute(tree, {**server, "ClientInfo": client}, "", template) + "\n")
        return
    session.out(f"Client:\n Version:    {__version__}\n Context:    default\n Debug Mode: false\n\nServer:\n")
    try:
        server = session.client.get("/info")
    except LabkitError as error:
        raise StatusError(f"ERROR: {error}\nerrors pretty printing info") from error
    session.out("".join(line + "\n" for line in _info_lines(server)) + "\n")
    session.err("".join(f"{warning}\n" for warning in server.get("Warnings") or ()))


def _info_lines(server: Mapping[str, Any]) -> list[str]:
    lines = [
        f" Containers: {server['Containers']}",
        f"  Running: {server['ContainersRunning']}",
        f"  Paused: {server['ContainersPaused']}",
        f"  Stopped: {server['ContainersStopped']}",
        f" Images: {server['Images']}",
        *_present(server, ("Server Version", "ServerVersion"), ("Storage Driver", "Driver")),
        *(f"  {name}: {value}" for name, value in server.get("DriverStatus") or ()),
        *_present(server, ("Logging Driver", "LoggingDriver"), ("Cgroup Driver", "CgroupDriver")),
        *_present(server, ("Cgroup Version", "CgroupVersion")),
        " Plugins:",
        *(
            f"  {kind}: {' '.join((server.get('Plugins') or {}).get(kind) or ())}"
            for kind in ("Volume", "Network", "Log")
        ),
        f" Swarm: {(server.get('Swarm') or {}).get('LocalNodeState', 'inactive')}",
    ]
    if runtimes := server.get("Runtimes"):
        lines += [f" Runtimes: {' '.join(runtimes)}", f" Default Runtime: {server.get('DefaultRuntime', '')}"]
    if server.get("OSType") == "linux":
        lines.append(f" Init Binary: {server.get('InitBinary', '')}")
        lines += [
            f" {name} version: {(server.get(field) or {}).get('ID', '')}"
            for name, field in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit"))
        ]
        lines += _security_lines(server.get("SecurityOptions") or [])
    return lines + _machine_lines(server)


def _present(server: Mapping[str, Any], *fields: tuple[str, str]) -> list[str]:
    return [f" {label}: {server[field]}" for label, field in fields if server.get(field)]


def _security_lines(options: list[str]) -> list[str]:
    lines = [" Security Options:"] if options else []
    for option in options:
        for key, _, value in (item.partition("=") for item in option.split(",")):
            lines.append(f"  {value}" if key == "name" else f"   {key.capitalize()}: {value}")
    return lines


def _machine_lines(server: Mapping[str, Any]) -> list[str]:
    registry = server.get("RegistryConfig") or {}
    insecure = [name for name, index in (registry.get("IndexConfigs") or {}).items() if not index["Secure"]]
    insecure += registry.get("InsecureRegistryCIDRs") or []
    lines = _present(
        server,
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
    )
    lines += [f" CPUs: {server['NCPU']}", f" Total Memory: {bytes_size(server['MemTotal'])}"]
    lines += _present(server, ("Name", "Name"), ("ID", "ID"))
    lines += [f" Docker Root Dir: {server['DockerRootDir']}", f" Debug Mode: {_bool(server.get('Debug'))}"]
    lines += _present(server, ("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy"))
    lines += _listed("Labels", server.get("Labels"))
    lines.append(f" Experimental: {_bool(server.get('ExperimentalBuild'))}")
    lines += _listed("Insecure Registries", insecure) + _listed("Registry Mirrors", registry.get("Mirrors"))
    lines.append(f" Live Restore Enabled: {_bool(server.get('LiveRestoreEnabled'))}")
    return lines


def _listed(title: str, values: list[str] | None) -> list[str]:
    return [f" {title}:", *(f"  {value}" for value in values)] if values else []


def _bool(value: Any) -> str:
    return "true" if value else "false"


def events(session: Session, given: Invocation) -> None:
    template = given.text("format")
    try:
        tree = parse("{{json .}}" if template == "json" else template)
    except TemplateError as error:
        raise StatusError(f"Error parsing format: {error}", 64) from error
    since, until = given.text("since"), given.text("until")
    query = {
        "since": api_timestamp(since) if since else None,
        "until": api_timestamp(until) if until else None,
        "filters": encode_filters(given.all("filter")),
    }
    for line in session.client.request("GET", "/events", query).lines():
        if line.strip():
            event = json.loads(line)
            session.out(execute(tree, event, "", template) + "\n" if template else _event_line(event))


def _event_line(event: Mapping[str, Any]) -> str:
    """`2026-11-24T18:03:28.961683084Z container create ID (image=…, name=…)`."""
    nanoseconds = event.get("timeNano") or event.get("time", 0) * 10**9
    seconds, fraction = divmod(nanoseconds, 10**9)
    moment = time.localtime(seconds)
    offset = time.strftime("%z", moment)
    zone = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:]}"
    attributes = event["Actor"].get("Attributes") or {}
    listed = ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes))
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{fraction:09d}{zone}"
    line = f"{stamp} {event['Type']} {event['Action']} {event['Actor']['ID']}"
    return f"{line} ({listed})\n" if listed else f"{line}\n"
