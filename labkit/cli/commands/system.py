"""The commands on the engine as a whole, and labkit's own, as data."""

from __future__ import annotations

from labkit.cli.commands.shared import FILTER, INSPECT_FORMAT, INSPECT_FORMAT_HELP, LIST_FORMAT
from labkit.cli.grammar import Command, Flag

_SYSTEM = "labkit.cli.runners.system"

SYSTEM_COMMANDS = (
    Command(
        (("system", "df"),),
        "Show labkit disk usage",
        "labkit.cli.runners.usage:disk_usage",
        "",
        (LIST_FORMAT, Flag("verbose", "v", "bool", "Show detailed information on space usage")),
    ),
    Command(
        (("system", "events"), ("events",)),
        "Get real time events from the server",
        f"{_SYSTEM}:events",
        "",
        (
            FILTER,
            Flag("format", "", "string", INSPECT_FORMAT_HELP),
            Flag("since", "", "string", "Show all events created since timestamp"),
            Flag("until", "", "string", "Stream events until this timestamp"),
        ),
    ),
    Command(
        (("system", "prune"),),
        "Remove unused data",
        "labkit.cli.runners.prune:system",
        "",
        (
            Flag("all", "a", "bool", "Remove all unused images not just dangling ones"),
            Flag("filter", "", "filter", 'Provide filter values (e.g. "label=<key>=<value>")'),
            Flag("force", "f", "bool", "Do not prompt for confirmation"),
            Flag("volumes", "", "bool", "Prune anonymous volumes"),
        ),
    ),
    Command(
        (("system", "info"), ("info",)),
        "Display system-wide information",
        f"{_SYSTEM}:info",
        "",
        (INSPECT_FORMAT,),
        common=12,
    ),
    Command(
        (("version",),),
        "Show the labkit version information",
        f"{_SYSTEM}:version",
        "",
        (INSPECT_FORMAT,),
        common=11,
    ),
    Command(
        (("inspect",),),
        "Return low-level information on Docker objects",
        "labkit.cli.runners.inspect:inspect",
        "NAME|ID [NAME|ID...]",
        (
            INSPECT_FORMAT,
            Flag("size", "s", "bool", "Display total file sizes if the type is container"),
            Flag(
                "type",
                "",
                "string",
                "Only inspect objects of the given type",
                complete="container|image|network|volume",
            ),
        ),
        1,
        -1,
        complete=("object",),
    ),
    Command(
        (("capture",),),
        "Show the packets of a container's links as they pass by",
        "labkit.explain.capturing:capture",
        "CONTAINER",
        (
            Flag("count", "c", "int", "End after this many packets"),
            Flag("interface", "i", "string", 'Link to capture on (default "any")'),
            Flag(
                "no-times", "", "bool", "Leave out of a cell's table what differs from run to run: times, chosen ports"
            ),
            Flag("port", "", "int", "Packets from or to this port only"),
            Flag("protocol", "", "string", "Packets of this protocol only", complete="arp|icmp|tcp|udp"),
            Flag("seconds", "", "int", "End after this many seconds"),
            Flag("write", "w", "string", 'Write the packets to a pcap file ("-": standard output)', complete="file"),
        ),
        1,
        1,
        complete=("container",),
        examples=("capture web", "capture --port 80 -c 20 web", "capture -w web.pcap -i eth0 web"),
    ),
    Command(
        (("registry",),),
        "Serve a registry for images",
        "labkit.cli.runners.registry:serve",
        "",
        (
            Flag("addr", "", "string", 'Address to listen on (default "127.0.0.1:5000")'),
            Flag("htpasswd", "", "string", "File of users and bcrypt passwords that may use it", complete="file"),
            Flag("log-level", "", "string", 'How much to log (default "info")', complete="debug|info|warn|error"),
            Flag("no-delete", "", "bool", "Refuse to delete tags, manifests and blobs"),
            Flag("proxy", "", "string", "URL of a registry to be a cache of (as $LABKIT_PROXY_USER, USER:PASSWORD)"),
            Flag("readonly", "", "bool", "Refuse pushes and deletions"),
            Flag("root", "", "string", 'Where images are kept (default "/var/lib/labkit-registry")', complete="file"),
            Flag("tls-cert", "", "string", "Certificate to serve with", complete="file"),
            Flag("tls-key", "", "string", "Key of the certificate", complete="file"),
        ),
        examples=("registry --root ./images", "registry --addr :5000 --readonly --root ./images"),
    ),
    Command(
        (("completion", "bash"),),
        "Print the completion script for bash",
        "labkit.cli.completion:print_bash",
        examples=("completion bash > /etc/bash_completion.d/labkit",),
    ),
    Command((("completion", "zsh"),), "Print the completion script for zsh", "labkit.cli.completion:print_zsh"),
    Command((("completion", "fish"),), "Print the completion script for fish", "labkit.cli.completion:print_fish"),
)

# These read their own words: the table knows them for the help and the completion.
DAEMON = Command((("daemon",),), "Run labkit's engine", "", "[OPTIONS]", most=-1, interspersed=False)
EXPLAIN = Command(
    (("explain",),),
    "Show the kernel calls behind an action",
    "",
    "[CONTAINER|IMAGE|TRACE|METHOD PATH]",
    (
        Flag("calls", "", "bool", "Show the kernel calls of each operation (default true)"),
        Flag("full", "", "bool", "Don't shorten IDs and long arguments"),
        Flag("no-calls", "", "bool", "Show operations only"),
        Flag(
            "no-times", "", "bool", "Leave out what differs from run to run: times, process IDs, IDs, own directories"
        ),
        Flag("only", "", "string", "Operations or calls to show, comma-separated (SetHostname,pivot_root)"),
        Flag("topology", "", "bool", "Show links, bridges and containers as they are now (of one of these)"),
        Flag("way", "", "string", "Show the way of a packet to a published port (8080, 192.0.2.7:53/udp)"),
        Flag("why", "", "bool", "Show why a container has ended, and nothing else"),
    ),
    most=-1,
    complete=("container",),
)
OWN_COMMANDS = (DAEMON, EXPLAIN)
