"""The commands on volumes, as data. Cluster volumes, and the options that only they have, are Swarm's."""

from __future__ import annotations

from labkit.cli.commands.shared import FILTER, INSPECT_FORMAT, LIST_FORMAT
from labkit.cli.grammar import Command, Flag

_VOLUMES = "labkit.cli.runners.volumes"

VOLUME_COMMANDS = (
    Command(
        (("volume", "create"),),
        "Create a volume",
        f"{_VOLUMES}:create",
        "[VOLUME]",
        (
            Flag("driver", "d", "string", 'Specify volume driver name (default "local")', complete="local"),
            Flag("label", "", "list", "Set metadata for a volume"),
            Flag("opt", "o", "map", "Set driver specific options (default map[])"),
        ),
        0,
        1,
        examples=("volume create site", "volume create -o type=tmpfs -o device=tmpfs -o o=size=10m scratch"),
    ),
    Command(
        (("volume", "inspect"),),
        "Display detailed information on one or more volumes",
        "labkit.cli.runners.inspect:inspect_volumes",
        "VOLUME [VOLUME...]",
        (INSPECT_FORMAT,),
        1,
        -1,
        complete=("volume",),
    ),
    Command(
        (("volume", "ls"), ("volume", "list")),
        "List volumes",
        f"{_VOLUMES}:ls",
        "",
        (
            FILTER._replace(help='Provide filter values (e.g. "dangling=true")'),
            LIST_FORMAT,
            Flag("quiet", "q", "bool", "Only display volume names"),
        ),
    ),
    Command(
        (("volume", "prune"),),
        "Remove unused local volumes",
        "labkit.cli.runners.prune:volumes",
        "",
        (
            Flag("all", "a", "bool", "Remove all unused volumes, not just anonymous ones"),
            Flag("filter", "", "filter", 'Provide filter values (e.g. "label=<label>")'),
            Flag("force", "f", "bool", "Do not prompt for confirmation"),
        ),
    ),
    Command(
        (("volume", "rm"), ("volume", "remove")),
        "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
        f"{_VOLUMES}:rm",
        "VOLUME [VOLUME...]",
        (Flag("force", "f", "bool", "Force the removal of one or more volumes"),),
        1,
        -1,
        complete=("volume",),
        examples=("volume rm site",),
    ),
)
