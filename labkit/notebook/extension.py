"""What `%load_ext labkit` adds to a shell, and what `%unload_ext labkit` takes away again."""

from __future__ import annotations

from typing import Any

from labkit.notebook.completing import docker_matcher
from labkit.notebook.display import register, unregister
from labkit.notebook.magics import DockerMagics

_MAGICS = ("docker", "explain")


def load(shell: Any) -> None:
    """Registers the magics, their completion and the tables. Loading twice does no harm."""
    shell.register_magics(DockerMagics)
    if docker_matcher not in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.append(docker_matcher)
    register(shell)


def unload(shell: Any) -> None:
    for name in _MAGICS:
        shell.magics_manager.magics["line"].pop(name, None)
    if docker_matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(docker_matcher)
    unregister(shell)
