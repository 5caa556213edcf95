"""Packets for tests, layer by layer."""

from __future__ import annotations

import ipaddress
import struct


def ethernet(payload: bytes, kind: int = 0x0800, tags: tuple[int, ...] = ()) -> bytes:
    return (
        bytes.fromhex("0242ac1400030242ac140002")
        + b"".join(struct.pack(">HH", 0x8100, tag) for tag in tags)
        + struct.pack(">H", kind)
        + payload
    )


def cooked(payload: bytes, kind: int = 0x0800, link: int = 2) -> bytes:
    return struct.pack(">HHIHBB8s", kind, 0, link, 1, 0, 6, bytes(8)) + payload


def ipv4(
    payload: bytes,
    protocol: int,
    source: str = "10.0.0.2",
    target: str = "10.0.0.3",
    offset: int = 0,
    options: bytes = b"",
) -> bytes:
    size = 20 + len(options)
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), 1, offset, 64, protocol, 0)
    return head + ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed + options + payload


def ipv6(payload: bytes, following: int, source: str = "fd00::2", target: str = "fd00::3") -> bytes:
    head = struct.pack(">IHBB", 0x60000000, len(payload), following, 64)
    return head + ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed + payload


def udp(payload: bytes, source: int = 40000, target: int = 9) -> bytes:
    return struct.pack(">HHHH", source, target, 8 + len(payload), 0) + payload


def tcp(payload: bytes = b"", flags: int = 0x10, source: int = 40000, target: int = 80, options: bytes = b"") -> bytes:
    size = 20 + len(options)
    return struct.pack(">HHIIBBHHH", source, target, 1, 1, size // 4 << 4, flags, 1000, 0, 0) + options + payload


def arp(operation: int) -> bytes:
    addresses = bytes.fromhex("0242ac1400020a0000020000000000000a000003")
    return struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + addresses
