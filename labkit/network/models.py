"""Networks and endpoints as data, with the Engine API's field names (v1.50, `Network`, `EndpointSettings`).

A network's record is `networks/ID.json` below the data root; an endpoint, a container's connection to a network, is
part of the container's record, so that both are written in one go.
"""

from __future__ import annotations

import msgspec


class Struct(msgspec.Struct, kw_only=True):
    """Base: keyword-only, so that fields may come in the API's order whatever their defaults."""


class IPAMConfig(Struct, omit_defaults=True):
    """One subnet of a network (CIDR); addresses for containers come from `IPRange` if there is one."""

    Subnet: str = ""
    IPRange: str = ""
    Gateway: str = ""
    AuxiliaryAddresses: dict[str, str] | None = None


class IPAM(Struct):
    """How a network's addresses are given out."""

    Driver: str = "default"
    Options: dict[str, str] | None = None
    Config: list[IPAMConfig] | None = msgspec.field(default_factory=list)


class ConfigReference(Struct):
    Network: str = ""


class NetworkRecord(Struct):
    """What `networks/ID.json` holds, and inspect shows. `Bridge` is the link on the host, of a bridge network."""

    Name: str
    Id: str
    Created: str
    Scope: str = "local"
    Driver: str = "bridge"
    EnableIPv4: bool = True
    EnableIPv6: bool = False
    IPAM: IPAM = msgspec.field(default_factory=IPAM)
    Internal: bool = False
    Attachable: bool = False
    Ingress: bool = False
    ConfigFrom: ConfigReference = msgspec.field(default_factory=ConfigReference)
    ConfigOnly: bool = False
    Options: dict[str, str] = msgspec.field(default_factory=dict)
    Labels: dict[str, str] = msgspec.field(default_factory=dict)
    Bridge: str = ""


class NetworkCreateBody(Struct):
    """What `POST /networks/create` takes (`NetworkCreateRequest`)."""

    Name: str = ""
    CheckDuplicate: bool = False
    Driver: str = ""
    Scope: str = ""
    Internal: bool = False
    Attachable: bool = False
    Ingress: bool = False
    ConfigOnly: bool = False
    ConfigFrom: ConfigReference | None = None
    IPAM: IPAM | None = None
    EnableIPv4: bool | None = None
    EnableIPv6: bool | None = None
    Options: dict[str, str] | None = None
    Labels: dict[str, str] | None = None


class EndpointIPAM(Struct, omit_defaults=True):
    """Addresses that were asked for (`EndpointIPAMConfig`)."""

    IPv4Address: str = ""
    IPv6Address: str = ""
    LinkLocalIPs: list[str] | None = None


class Endpoint(Struct):
    """`EndpointSettings`: a container's connection to a network. What the engine fills in is empty unless it runs."""

    IPAMConfig: EndpointIPAM | None = None
    Links: list[str] | None = None
    Aliases: list[str] | None = None
    MacAddress: str = ""
    DriverOpts: dict[str, str] | None = None
    GwPriority: int = 0
    NetworkID: str = ""
    EndpointID: str = ""
    Gateway: str = ""
    IPAddress: str = ""
    IPPrefixLen: int = 0
    IPv6Gateway: str = ""
    GlobalIPv6Address: str = ""
    GlobalIPv6PrefixLen: int = 0
    DNSNames: list[str] | None = None

    def addresses(self) -> tuple[str, ...]:
        """Its addresses with their prefix lengths, as `ip address add` takes them."""
        ipv4 = f"{self.IPAddress}/{self.IPPrefixLen}" if self.IPAddress else ""
        ipv6 = f"{self.GlobalIPv6Address}/{self.GlobalIPv6PrefixLen}" if self.GlobalIPv6Address else ""
        return tuple(address for address in (ipv4, ipv6) if address)

    def link_local(self) -> tuple[str, ...]:
        """The link-local addresses that were asked for besides (RFC 3927, RFC 4291), with dockerd's prefix lengths."""
        asked = (self.IPAMConfig.LinkLocalIPs if self.IPAMConfig else None) or ()
        return tuple(f"{address}/{64 if ':' in address else 16}" for address in asked)


class NetworkingConfig(Struct):
    """What `POST /containers/create` says of networks: settings for each endpoint, by the network's name."""

    EndpointsConfig: dict[str, Endpoint | None] | None = None


class ConnectBody(Struct):
    """What `POST /networks/{id}/connect` and `/disconnect` take."""

    Container: str = ""
    EndpointConfig: Endpoint | None = None
    Force: bool = False


def options_of(record: NetworkRecord) -> BridgeOptions:
    """The driver options of a bridge network (docs.docker.com, bridge driver). dockerd ignores unknown ones too."""
    given = record.Options
    prefix = "com.docker.network"
    return BridgeOptions(
        icc=_is_true(given.get(f"{prefix}.bridge.enable_icc", "true")),
        masquerade=_is_true(given.get(f"{prefix}.bridge.enable_ip_masquerade", "true")),
        host_ip=given.get(f"{prefix}.bridge.host_binding_ipv4", ""),
        mtu=int(given.get(f"{prefix}.driver.mtu", "0") or 0),
        name=given.get(f"{prefix}.bridge.name", ""),
        prefix=given.get(f"{prefix}.container_iface_prefix", "eth"),
    )


def _is_true(text: str) -> bool:
    return text.lower() in ("1", "t", "true")


class BridgeOptions(msgspec.Struct, frozen=True):
    """How a bridge network behaves: its containers may talk (icc), are masqueraded; where ports are published; MTU."""

    icc: bool = True
    masquerade: bool = True
    host_ip: str = ""
    mtu: int = 0
    name: str = ""
    prefix: str = "eth"
