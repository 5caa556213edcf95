"""The one table of commands that the `labkit` command, the magics, the help and the completion share."""

from __future__ import annotations

from labkit.cli.commands.containers import CONTAINER_COMMANDS
from labkit.cli.commands.hub import HUB_COMMANDS
from labkit.cli.commands.images import IMAGE_COMMANDS
from labkit.cli.commands.networks import NETWORK_COMMANDS
from labkit.cli.commands.registries import REGISTRY_COMMANDS
from labkit.cli.commands.system import OWN_COMMANDS, SYSTEM_COMMANDS
from labkit.cli.commands.volumes import VOLUME_COMMANDS
from labkit.cli.grammar import Command, Flag

COMMANDS: tuple[Command, ...] = (
    *CONTAINER_COMMANDS,
    *IMAGE_COMMANDS,
    *NETWORK_COMMANDS,
    *REGISTRY_COMMANDS,
    *HUB_COMMANDS,
    *VOLUME_COMMANDS,
    *SYSTEM_COMMANDS,
    *OWN_COMMANDS,
)

GROUPS: dict[str, str] = {
    "completion": "Print completion scripts for shells",
    "container": "Manage containers",
    "hub": "Make and serve images without Docker Hub",
    "image": "Manage images",
    "manifest": "Manage Docker image manifests and manifest lists",
    "network": "Manage networks",
    "system": "Manage the engine",
    "volume": "Manage volumes",
}

GLOBAL_FLAGS = (
    Flag("debug", "D", "bool", "Enable debug mode"),
    Flag("help", "", "bool", "Print usage"),
    Flag("host", "H", "string", "Daemon socket to connect to"),
    Flag("tls", "", "bool", "Use TLS; implied by --tlsverify"),
    Flag("tlscacert", "", "string", "Trust certs signed only by this CA", complete="file"),
    Flag("tlscert", "", "string", "Path to TLS certificate file", complete="file"),
    Flag("tlskey", "", "string", "Path to TLS key file", complete="file"),
    Flag("tlsverify", "", "bool", "Use TLS and verify the remote"),
    Flag("version", "v", "bool", "Print version information and quit"),
)

BY_NAME: dict[tuple[str, ...], Command] = {name: command for command in COMMANDS for name in command.names}
