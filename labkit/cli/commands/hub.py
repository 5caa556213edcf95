"""The commands on `labkit hub`, the stand-in for Docker Hub, as data."""

from __future__ import annotations

from labkit.cli.grammar import Command, Flag

_HUB = "labkit.cli.runners.hub"
_ROOT = Flag("root", "", "string", 'Where the hub keeps its images (default "/var/lib/labkit/hub")', complete="file")
# The recipes' names, which this package must not import; a test compares them.
NAMES = "busybox|alpine|hello-world|traefik/whoami|debian|nginx|docker/getting-started|redis|postgres|python"

HUB_COMMANDS = (
    Command(
        (("hub", "build"),),
        "Make images out of Debian packages, without any registry",
        f"{_HUB}:build",
        "[NAME...]",
        (
            Flag("all", "", "bool", "Make all images that there are, for the hub, without loading them"),
            Flag("into", "", "string", "Store of another hub, to make images for it without loading them", "", "file"),
            Flag("mirror", "", "list", "URL of a Debian mirror (default: the one that apt uses here)"),
        ),
        0,
        -1,
        complete=(NAMES,),
        examples=(
            "hub build busybox",
            "hub build nginx redis",
            "hub build --all --mirror http://mirror.example/debian",
        ),
    ),
    Command(
        (("hub", "serve"),),
        "Serve the hub's images as Docker Hub does, for this machine or a class",
        f"{_HUB}:serve",
        "",
        (
            Flag("addr", "", "string", 'Address to listen on (default "127.0.0.1:5151")'),
            Flag(
                "address-file",
                "",
                "string",
                'Where daemons of this machine find the address (default "/run/labkit/hub.url")',
                complete="file",
            ),
            _ROOT,
        ),
        examples=("hub serve", "hub serve --addr :5151"),
    ),
    Command((("hub", "ls"),), "List the hub's images", f"{_HUB}:ls", "", (_ROOT,)),
    Command(
        (("hub", "export"),),
        "Write all of the hub's images into one file",
        f"{_HUB}:export",
        "FILE",
        (_ROOT,),
        1,
        1,
        complete=("file",),
        examples=("hub export hub.tar",),
    ),
    Command(
        (("hub", "import"),),
        "Bring the images of such a file into the hub",
        f"{_HUB}:import_",
        "FILE",
        (_ROOT,),
        1,
        1,
        complete=("file",),
    ),
)
