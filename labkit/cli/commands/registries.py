"""The commands on registries, as data; `pull` is among those on images, `registry` among labkit's own."""

from __future__ import annotations

from labkit.cli.commands.shared import FILTER, NO_TRUNC
from labkit.cli.grammar import Command, Flag

_ACCOUNTS = "labkit.cli.runners.accounts"
_DISTRIBUTION = "labkit.cli.runners.distribution"
_MANIFESTS = "labkit.cli.runners.manifests"
_INSECURE = Flag("insecure", "", "bool", "Allow communication with an insecure registry")
_PUSHED_PLATFORM = """Push a platform-specific manifest as a single-platform image to the registry.
Image index won't be pushed, meaning that other manifests, including attestations won't be preserved.
'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)"""

REGISTRY_COMMANDS = (
    Command(
        (("login",),),
        "Authenticate to a registry",
        f"{_ACCOUNTS}:login",
        "[SERVER]",
        (
            Flag("password", "p", "string", "Password or Personal Access Token (PAT)"),
            Flag("password-stdin", "", "bool", "Take the Password or Personal Access Token (PAT) from stdin"),
            Flag("username", "u", "string", "Username"),
        ),
        0,
        1,
        complete=("registry",),
        common=8,
        description="Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
    ),
    Command(
        (("logout",),),
        "Log out from a registry",
        f"{_ACCOUNTS}:logout",
        "[SERVER]",
        (),
        0,
        1,
        complete=("registry",),
        common=9,
        description="Log out from a registry.\nIf no server is specified, the default is defined by the daemon.",
    ),
    Command(
        (("image", "push"), ("push",)),
        "Upload an image to a registry",
        f"{_DISTRIBUTION}:push",
        "NAME[:TAG]",
        (
            Flag("all-tags", "a", "bool", "Push all tags of an image to the repository"),
            Flag("disable-content-trust", "", "bool", "Skip image signing (default true)"),
            Flag("platform", "", "string", _PUSHED_PLATFORM),
            Flag("quiet", "q", "bool", "Suppress verbose output"),
        ),
        1,
        1,
        complete=("image",),
        common=6,
    ),
    Command(
        (("search",),),
        "Search Docker Hub for images",
        f"{_DISTRIBUTION}:search",
        "TERM",
        (
            FILTER,
            Flag("format", "", "string", "Pretty-print search using a Go template"),
            Flag("limit", "", "int", "Max number of search results"),
            NO_TRUNC,
        ),
        1,
        1,
        common=10,
    ),
    Command(
        (("manifest", "annotate"),),
        "Add additional information to a local image manifest",
        f"{_MANIFESTS}:annotate",
        "MANIFEST_LIST MANIFEST",
        (
            Flag("arch", "", "string", "Set architecture", complete="amd64|arm|arm64|386|ppc64le|riscv64|s390x"),
            Flag("os", "", "string", "Set operating system", complete="linux|windows"),
            Flag("os-features", "", "strings", "Set operating system feature"),
            Flag("os-version", "", "string", "Set operating system version"),
            Flag("variant", "", "string", "Set architecture variant"),
        ),
        2,
        2,
    ),
    Command(
        (("manifest", "create"),),
        "Create a local manifest list for annotating and pushing to a registry",
        f"{_MANIFESTS}:create",
        "MANIFEST_LIST MANIFEST [MANIFEST...]",
        (Flag("amend", "a", "bool", "Amend an existing manifest list"), _INSECURE),
        2,
        -1,
    ),
    Command(
        (("manifest", "inspect"),),
        "Display an image manifest, or manifest list",
        f"{_MANIFESTS}:inspect",
        "[MANIFEST_LIST] MANIFEST",
        (_INSECURE, Flag("verbose", "v", "bool", "Output additional info including layers and platform")),
        1,
        2,
        complete=("image",),
    ),
    Command(
        (("manifest", "push"),),
        "Push a manifest list to a repository",
        f"{_MANIFESTS}:push",
        "MANIFEST_LIST",
        (
            Flag("insecure", "", "bool", "Allow push to an insecure registry"),
            Flag("purge", "p", "bool", "Remove the local manifest list after push"),
        ),
        1,
        1,
    ),
    Command(
        (("manifest", "rm"),),
        "Delete one or more manifest lists from local storage",
        f"{_MANIFESTS}:remove",
        "MANIFEST_LIST [MANIFEST_LIST...]",
        (),
        1,
        -1,
    ),
)
