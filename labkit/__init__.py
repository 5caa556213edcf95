"""labkit: a Jupyter-first laboratory for Docker's architecture.

A real container engine that you can open up: it speaks the Docker Engine API and shows, for whatever it
just did, the kernel calls that did it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    import docker
    from IPython.core.interactiveshell import InteractiveShell

    from labkit.notebook.visiting import Visit

__version__ = "0.1.0"


def connect(host: str = "") -> docker.DockerClient:
    """The Docker SDK's client on labkit's engine, which is started if none answers.

    `host` (or LABKIT_HOST, or DOCKER_HOST) names another engine. Where IPython runs, containers, images and
    lists of them display as tables from now on.
    """
    from labkit.notebook.sdk import connect

    return connect(host)


def visit(port: int, path: str = "/") -> Visit:
    """Fetch a page from a published port; displays it, with links by which a browser reaches it.

    Raises labkit.errors.Unavailable if nothing answers there.
    """
    from labkit.notebook.visiting import visit

    return visit(port, path)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext labkit`: the magics %docker and %explain, their completion, and tables for SDK objects."""
    from labkit.notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    from labkit.notebook.extension import unload

    unload(shell)
