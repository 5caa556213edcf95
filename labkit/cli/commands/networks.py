"""The commands on networks, as data."""

from __future__ import annotations

from labkit.cli.commands.shared import FILTER, INSPECT_FORMAT, LIST_FORMAT
from labkit.cli.grammar import Command, Flag

_NETWORKS = "labkit.cli.runners.networks"

NETWORK_COMMANDS = (
    Command(
        (("network", "connect"),),
        "Connect a container to a network",
        f"{_NETWORKS}:connect",
        "NETWORK CONTAINER",
        (
            Flag("alias", "", "strings", "Add network-scoped alias for the container"),
            Flag("driver-opt", "", "strings", "driver options for the network"),
            Flag(
                "gw-priority",
                "",
                "int",
                "Highest gw-priority provides the default gateway. Accepts positive and negative values.",
            ),
            Flag("ip", "", "string", 'IPv4 address (e.g., "172.30.100.104")'),
            Flag("ip6", "", "string", 'IPv6 address (e.g., "2001:db8::33")'),
            Flag("link", "", "list", "Add link to another container", value="link", complete="container"),
            Flag("link-local-ip", "", "strings", "Add a link-local address for the container"),
        ),
        2,
        2,
        complete=("network", "container"),
        examples=("network connect --alias db back web",),
    ),
    Command(
        (("network", "create"),),
        "Create a network",
        f"{_NETWORKS}:create",
        "NETWORK",
        (
            Flag("attachable", "", "bool", "Enable manual container attachment"),
            Flag(
                "aux-address",
                "",
                "map",
                "Auxiliary IPv4 or IPv6 addresses used by Network driver (default map[])",
            ),
            Flag(
                "config-from",
                "",
                "string",
                "The network from which to copy the configuration",
                complete="network",
            ),
            Flag("config-only", "", "bool", "Create a configuration only network"),
            Flag("driver", "d", "string", 'Driver to manage the Network (default "bridge")', complete="bridge|macvlan"),
            Flag("gateway", "", "strings", "IPv4 or IPv6 Gateway for the master subnet"),
            Flag("ingress", "", "bool", "Create swarm routing-mesh network"),
            Flag("internal", "", "bool", "Restrict external access to the network"),
            Flag("ip-range", "", "strings", "Allocate container ip from a sub-range"),
            Flag("ipam-driver", "", "string", 'IP Address Management Driver (default "default")'),
            Flag("ipam-opt", "", "map", "Set IPAM driver specific options (default map[])"),
            Flag("ipv4", "", "bool", "Enable or disable IPv4 address assignment (default true)"),
            Flag("ipv6", "", "bool", "Enable or disable IPv6 address assignment"),
            Flag("label", "", "list", "Set metadata on a network", value="label"),
            Flag("opt", "o", "map", "Set driver specific options (default map[])"),
            Flag("scope", "", "string", "Control the network's scope"),
            Flag("subnet", "", "strings", "Subnet in CIDR format that represents a network segment"),
        ),
        1,
        1,
        complete=("",),
        examples=("network create lab", "network create --subnet 10.1.0.0/24 --internal back"),
    ),
    Command(
        (("network", "disconnect"),),
        "Disconnect a container from a network",
        f"{_NETWORKS}:disconnect",
        "NETWORK CONTAINER",
        (Flag("force", "f", "bool", "Force the container to disconnect from a network"),),
        2,
        2,
        complete=("network", "container"),
    ),
    Command(
        (("network", "inspect"),),
        "Display detailed information on one or more networks",
        "labkit.cli.runners.inspect:inspect_networks",
        "NETWORK [NETWORK...]",
        (INSPECT_FORMAT, Flag("verbose", "v", "bool", "Verbose output for diagnostics")),
        1,
        -1,
        complete=("network",),
    ),
    Command(
        (("network", "ls"), ("network", "list")),
        "List networks",
        f"{_NETWORKS}:ls",
        "",
        (
            FILTER._replace(help='Provide filter values (e.g. "driver=bridge")'),
            LIST_FORMAT,
            Flag("no-trunc", "", "bool", "Do not truncate the output"),
            Flag("quiet", "q", "bool", "Only display network IDs"),
        ),
    ),
    Command(
        (("network", "prune"),),
        "Remove all unused networks",
        "labkit.cli.runners.prune:networks",
        "",
        (
            Flag("filter", "", "filter", 'Provide filter values (e.g. "until=<timestamp>")'),
            Flag("force", "f", "bool", "Do not prompt for confirmation"),
        ),
    ),
    Command(
        (("network", "rm"), ("network", "remove")),
        "Remove one or more networks",
        f"{_NETWORKS}:rm",
        "NETWORK [NETWORK...]",
        (Flag("force", "f", "bool", "Do not error if the network does not exist"),),
        1,
        -1,
        complete=("network",),
        hides_options=True,
    ),
)
