"""The log driver `syslog`: RFC 3164 and RFC 5424 over unix sockets, UDP, TCP and TLS (moby `daemon/logger/syslog`)."""

from __future__ import annotations

import os
import socket
import ssl
import time as clock
from collections.abc import Iterable, Mapping

from labkit import certificates
from labkit.engine.logging import attributes, options
from labkit.engine.logging.sending import Datagrams, Encode, Sender, Stream, Transport
from labkit.engine.models import ContainerRecord
from labkit.errors import LabkitError

LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")
_SEVERITY = {"stdout": 6, "stderr": 3}
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def sender(record: ContainerRecord) -> Sender:
    """What sends a container's output to the syslog that its options name. Raises LabkitError."""
    asked = record.HostConfig.LogConfig.Config or {}
    tag = attributes.tag(record, "{{.ID}}")
    kind, _ = options.syslog_address(asked.get("syslog-address", ""))
    encode = encoder(asked.get("syslog-format", ""), options.facility(asked.get("syslog-facility", "")), tag, kind)
    return Sender(transport(asked), encode, options.buffer(asked))


def encoder(form: str, facility: int, tag: str, kind: str) -> Encode:
    """How messages look in one of `SYSLOG_FORMATS`. RFC 5424 over TLS says each one's length (RFC 5425)."""
    host, pid, counted = socket.gethostname(), os.getpid(), kind == "tcp+tls" and form.startswith("rfc5424")

    def encode(message: bytes, stream: str, time: int) -> bytes:
        priority = facility << 3 | _SEVERITY[stream]
        if form == "":
            head = f"<{priority}>{stamp(time)} {tag}[{pid}]: "
        elif form == "rfc3164":
            head = f"<{priority}>{stamp(time)} {host} {tag}[{pid}]: "
        else:
            at = rfc3339(time, micro=form == "rfc5424micro")
            head = f"<{priority}>1 {at} {host} {tag} {pid} {tag} - "
        whole = head.encode() + message + (b"" if message.endswith(b"\n") else b"\n")
        return b"%d " % len(whole) + whole if counted else whole

    return encode


def stamp(time: int) -> str:
    """`Jan  2 15:04:05`, in local time (Go's time.Stamp)."""
    at = clock.localtime(time // 10**9)
    return f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"


def rfc3339(time: int, micro: bool) -> str:
    at = clock.localtime(time // 10**9)
    zone = clock.strftime("%z", at)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    return clock.strftime("%Y-%m-%dT%H:%M:%S", at) + (f".{time // 1000 % 10**6:06}" if micro else "") + zone


def transport(asked: Mapping[str, str]) -> Transport:
    """The way to an address; to this machine's syslog if none is named."""
    kind, target = options.syslog_address(asked.get("syslog-address", ""))
    if not kind:
        return local(LOCAL)
    if kind == "unixgram":
        return Datagrams(f"unixgram {target}", socket.AF_UNIX, target)
    if kind == "unix":
        return Stream(f"unix {target}", target)
    host, _, port = target.rpartition(":")
    address = host.strip("[]") or "localhost", int(port)
    if kind == "udp":
        return Datagrams(f"udp {target}", 0, address)
    return Stream(f"tcp {target}", address, context(asked) if kind == "tcp+tls" else None)


def local(paths: Iterable[str]) -> Transport:
    """The way to the first of these sockets at which somebody listens."""
    for path in paths:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
                if probe.connect_ex(path):
                    continue
            if kind == socket.SOCK_STREAM:
                return Stream(f"unix {path}", path)
            return Datagrams(f"unixgram {path}", socket.AF_UNIX, path)
    raise LabkitError("Unix syslog delivery error")


def context(asked: Mapping[str, str]) -> ssl.SSLContext:
    """TLS as the options `syslog-tls-…` want it."""
    authority, certificate, key = (asked.get(f"syslog-tls-{name}", "") for name in ("ca-cert", "cert", "key"))
    if authority:
        _check_readable("CA certificate", authority)
    try:
        found = certificates.trusting(authority)
        if "syslog-tls-skip-verify" in asked:
            found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
        if certificate or key:
            found.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        raise LabkitError(f"could not load the certificates of syslog-tls-*: {error}") from error
    return found


def _check_readable(what: str, path: str) -> None:
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise LabkitError(f'could not read {what} "{path}": open {path}: {reason}') from error
