"""The commands on images, as data."""

from __future__ import annotations

from labkit.cli.commands.shared import FILTER, INSPECT_FORMAT, LIST_FORMAT, NO_TRUNC, PLATFORM, platform_flag
from labkit.cli.grammar import Command, Flag

_COMPARE = "labkit.cli.runners.compare"
_IMAGES = "labkit.cli.runners.images"
_ARCHIVES = "labkit.cli.runners.archives"


def _names(name: str) -> tuple[tuple[str, ...], ...]:
    return (("image", name), (name,))


IMAGE_COMMANDS = (
    Command(
        (("image", "diff"),),
        "Show which files differ between two images, and the layers that made the difference",
        f"{_COMPARE}:diff",
        "IMAGE IMAGE",
        (
            LIST_FORMAT,
            Flag("text", "", "list", "Show the differences of this file line by line"),
            Flag("unified", "u", "bool", "Show the differences of all small text files line by line"),
        ),
        2,
        2,
        complete=("image",),
        examples=("image diff app:1 app:2", "image diff -u app:1 app:2"),
    ),
    Command(
        _names("history"),
        "Show the history of an image",
        f"{_IMAGES}:history",
        "IMAGE",
        (
            LIST_FORMAT,
            Flag("human", "H", "bool", "Print sizes and dates in human readable format (default true)"),
            NO_TRUNC,
            platform_flag("Show history for the given platform"),
            Flag("quiet", "q", "bool", "Only show image IDs"),
        ),
        1,
        1,
        complete=("image",),
    ),
    Command(
        _names("import"),
        "Import the contents from a tarball to create a filesystem image",
        f"{_ARCHIVES}:import_",
        "file|URL|- [REPOSITORY[:TAG]]",
        (
            Flag("change", "c", "list", "Apply Dockerfile instruction to the created image"),
            Flag("message", "m", "string", "Set commit message for imported image"),
            PLATFORM,
        ),
        1,
        2,
        complete=("file", "image"),
    ),
    Command(
        (("image", "inspect"),),
        "Display detailed information on one or more images",
        "labkit.cli.runners.inspect:inspect_images",
        "IMAGE [IMAGE...]",
        (INSPECT_FORMAT,),
        1,
        -1,
        complete=("image",),
    ),
    Command(
        _names("load"),
        "Load an image from a tar archive or STDIN",
        f"{_ARCHIVES}:load",
        "",
        (
            Flag("input", "i", "string", "Read from tar archive file, instead of STDIN", complete="file"),
            platform_flag("Load only the given platform variant"),
            Flag("quiet", "q", "bool", "Suppress the load output"),
        ),
    ),
    Command(
        (("image", "ls"), ("image", "list"), ("images",)),
        "List images",
        f"{_IMAGES}:images",
        "[REPOSITORY[:TAG]]",
        (
            Flag("all", "a", "bool", "Show all images (default hides intermediate images)"),
            Flag("digests", "", "bool", "Show digests"),
            FILTER,
            LIST_FORMAT,
            NO_TRUNC,
            Flag("quiet", "q", "bool", "Only show image IDs"),
            Flag("tree", "", "bool", "List multi-platform images as a tree (EXPERIMENTAL)"),
        ),
        0,
        1,
        complete=("image",),
        common=8,
    ),
    Command(
        (("image", "prune"),),
        "Remove unused images",
        "labkit.cli.runners.prune:images",
        "",
        (
            Flag("all", "a", "bool", "Remove all unused images, not just dangling ones"),
            Flag("filter", "", "filter", 'Provide filter values (e.g. "until=<timestamp>")'),
            Flag("force", "f", "bool", "Do not prompt for confirmation"),
        ),
    ),
    Command(
        _names("pull"),
        "Download an image from a registry",
        "labkit.cli.runners.distribution:pull",
        "NAME[:TAG|@DIGEST]",
        (
            Flag("all-tags", "a", "bool", "Download all tagged images in the repository"),
            Flag("disable-content-trust", "", "bool", "Skip image verification (default true)"),
            PLATFORM,
            Flag("quiet", "q", "bool", "Suppress verbose output"),
        ),
        1,
        1,
        common=5,
    ),
    Command(
        (("image", "rm"), ("image", "remove"), ("rmi",)),
        "Remove one or more images",
        f"{_IMAGES}:rmi",
        "IMAGE [IMAGE...]",
        (
            Flag("force", "f", "bool", "Force removal of the image"),
            Flag("no-prune", "", "bool", "Do not delete untagged parents"),
        ),
        1,
        -1,
        complete=("image",),
    ),
    Command(
        _names("save"),
        "Save one or more images to a tar archive (streamed to STDOUT by default)",
        f"{_ARCHIVES}:save",
        "IMAGE [IMAGE...]",
        (
            Flag("output", "o", "string", "Write to a file, instead of STDOUT", complete="file"),
            platform_flag("Save only the given platform variant"),
        ),
        1,
        -1,
        complete=("image",),
    ),
    Command(
        _names("tag"),
        "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        f"{_IMAGES}:tag",
        "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        least=2,
        most=2,
        complete=("image",),
    ),
    Command(
        (("image", "waste"),),
        "Show what an image's layers overwrite or delete of each other",
        f"{_COMPARE}:waste",
        "IMAGE",
        (LIST_FORMAT,),
        1,
        1,
        complete=("image",),
    ),
)
