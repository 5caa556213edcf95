"""The commands on containers and their processes, as data."""

from __future__ import annotations

from labkit.cli.commands.container_flags import CREATE_FLAGS, RUN_FLAGS, UPDATE_FLAGS
from labkit.cli.commands.shared import DETACH_KEYS, FILTER, INSPECT_FORMAT, LIST_FORMAT, NO_TRUNC
from labkit.cli.grammar import Command, Flag

_COMMIT = "labkit.cli.runners.commit"
_COPYING = "labkit.cli.runners.copying"
_LIFECYCLE = "labkit.cli.runners.lifecycle"
_LISTS = "labkit.cli.runners.containers"
_PROCESSES = "labkit.cli.runners.processes"
_SIGNAL = Flag("signal", "s", "string", "Signal to send to the container", complete="signal")
_TIMEOUT = Flag("timeout", "t", "int", "Seconds to wait before killing the container")
_TIME = Flag("time", "", "int", same_as="timeout")
_SIG_PROXY = Flag("sig-proxy", "", "bool", "Proxy all received signals to the process (default true)")


def _names(name: str) -> tuple[tuple[str, ...], ...]:
    return (("container", name), (name,))


CONTAINER_COMMANDS = (
    Command(
        _names("attach"),
        "Attach local standard input, output, and error streams to a running container",
        f"{_PROCESSES}:attach",
        "CONTAINER",
        (DETACH_KEYS, Flag("no-stdin", "", "bool", "Do not attach STDIN"), _SIG_PROXY),
        1,
        1,
        complete=("running",),
    ),
    Command(
        _names("commit"),
        "Create a new image from a container's changes",
        f"{_COMMIT}:commit",
        "CONTAINER [REPOSITORY[:TAG]]",
        (
            Flag("author", "a", "string", 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")'),
            Flag("change", "c", "list", "Apply Dockerfile instruction to the created image"),
            Flag("message", "m", "string", "Commit message"),
            Flag("pause", "p", "bool", "Pause container during commit (default true)"),
        ),
        1,
        2,
        complete=("container", "image"),
    ),
    Command(
        _names("cp"),
        "Copy files/folders between a container and the local filesystem",
        f"{_COPYING}:copy",
        "CONTAINER:SRC_PATH DEST_PATH|-\n\tlabkit cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
        (
            Flag("archive", "a", "bool", "Archive mode (copy all uid/gid information)"),
            Flag("follow-link", "L", "bool", "Always follow symbol link in SRC_PATH"),
            Flag(
                "quiet",
                "q",
                "bool",
                "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is "
                "attached",
            ),
        ),
        2,
        2,
        complete=("file",),
        examples=("cp web:/etc/hostname .", "cp page.html web:/www/"),
        description="""Copy files/folders between a container and the local filesystem

Use '-' as the source to read a tar archive from stdin
and extract it to a directory destination in a container.
Use '-' as the destination to stream a tar archive of a
container source to stdout.""",
    ),
    Command(
        _names("create"),
        "Create a new container",
        "labkit.cli.runners.run:create",
        "IMAGE [COMMAND] [ARG...]",
        CREATE_FLAGS,
        1,
        -1,
        interspersed=False,
        complete=("image", ""),
    ),
    Command(
        _names("diff"),
        "Inspect changes to files or directories on a container's filesystem",
        f"{_COPYING}:diff",
        "CONTAINER",
        least=1,
        most=1,
        complete=("container",),
    ),
    Command(
        _names("exec"),
        "Execute a command in a running container",
        f"{_PROCESSES}:exec_",
        "CONTAINER COMMAND [ARG...]",
        (
            Flag("detach", "d", "bool", "Detached mode: run command in the background"),
            DETACH_KEYS,
            Flag("env", "e", "list", "Set environment variables", value="env", complete="env"),
            Flag("env-file", "", "list", "Read in a file of environment variables", complete="file"),
            Flag("interactive", "i", "bool", "Keep STDIN open even if not attached"),
            Flag("privileged", "", "bool", "Give extended privileges to the command"),
            Flag("tty", "t", "bool", "Allocate a pseudo-TTY"),
            Flag("user", "u", "string", 'Username or UID (format: "<name|uid>[:<group|gid>]")'),
            Flag("workdir", "w", "string", "Working directory inside the container"),
        ),
        2,
        -1,
        interspersed=False,
        complete=("running", ""),
        examples=("exec web ps", "exec -it web sh"),
        common=2,
    ),
    Command(
        _names("export"),
        "Export a container's filesystem as a tar archive",
        f"{_COMMIT}:export",
        "CONTAINER",
        (Flag("output", "o", "string", "Write to a file, instead of STDOUT", complete="file"),),
        1,
        1,
        complete=("container",),
    ),
    Command(
        (("container", "inspect"),),
        "Display detailed information on one or more containers",
        "labkit.cli.runners.inspect:inspect_containers",
        "CONTAINER [CONTAINER...]",
        (INSPECT_FORMAT, Flag("size", "s", "bool", "Display total file sizes")),
        1,
        -1,
        complete=("container",),
    ),
    Command(
        _names("kill"),
        "Kill one or more running containers",
        f"{_LIFECYCLE}:kill",
        "CONTAINER [CONTAINER...]",
        (_SIGNAL,),
        1,
        -1,
        complete=("running",),
    ),
    Command(
        _names("logs"),
        "Fetch the logs of a container",
        f"{_PROCESSES}:logs",
        "CONTAINER",
        (
            Flag("details", "", "bool", "Show extra details provided to logs"),
            Flag("follow", "f", "bool", "Follow log output"),
            Flag(
                "since",
                "",
                "string",
                'Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)',
            ),
            Flag("tail", "n", "string", 'Number of lines to show from the end of the logs (default "all")'),
            Flag("timestamps", "t", "bool", "Show timestamps"),
            Flag(
                "until",
                "",
                "string",
                'Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)',
            ),
        ),
        1,
        1,
        complete=("container",),
    ),
    Command(
        (("container", "ls"), ("container", "list"), ("container", "ps"), ("ps",)),
        "List containers",
        f"{_LISTS}:ps",
        "",
        (
            Flag("all", "a", "bool", "Show all containers (default shows just running)"),
            FILTER,
            LIST_FORMAT,
            Flag("last", "n", "int", "Show n last created containers (includes all states) (default -1)"),
            Flag("latest", "l", "bool", "Show the latest created container (includes all states)"),
            NO_TRUNC,
            Flag("quiet", "q", "bool", "Only display container IDs"),
            Flag("size", "s", "bool", "Display total file sizes"),
        ),
        common=3,
    ),
    Command(
        _names("pause"),
        "Pause all processes within one or more containers",
        f"{_LIFECYCLE}:pause",
        "CONTAINER [CONTAINER...]",
        least=1,
        most=-1,
        complete=("running",),
    ),
    Command(
        _names("port"),
        "List port mappings or a specific mapping for the container",
        f"{_LISTS}:port",
        "CONTAINER [PRIVATE_PORT[/PROTO]]",
        least=1,
        most=2,
        complete=("container", ""),
    ),
    Command(
        _names("rename"),
        "Rename a container",
        f"{_LIFECYCLE}:rename",
        "CONTAINER NEW_NAME",
        least=2,
        most=2,
        complete=("container", ""),
    ),
    Command(
        _names("restart"),
        "Restart one or more containers",
        f"{_LIFECYCLE}:restart",
        "CONTAINER [CONTAINER...]",
        (_SIGNAL, _TIMEOUT, _TIME),
        1,
        -1,
        complete=("container",),
    ),
    Command(
        (("container", "prune"),),
        "Remove all stopped containers",
        "labkit.cli.runners.prune:containers",
        "",
        (
            Flag("filter", "", "filter", 'Provide filter values (e.g. "until=<timestamp>")'),
            Flag("force", "f", "bool", "Do not prompt for confirmation"),
        ),
    ),
    Command(
        (("container", "rm"), ("container", "remove"), ("rm",)),
        "Remove one or more containers",
        f"{_LIFECYCLE}:rm",
        "CONTAINER [CONTAINER...]",
        (
            Flag("force", "f", "bool", "Force the removal of a running container (uses SIGKILL)"),
            Flag("link", "l", "bool", "Remove the specified link"),
            Flag("volumes", "v", "bool", "Remove anonymous volumes associated with the container"),
        ),
        1,
        -1,
        complete=("container",),
    ),
    Command(
        _names("run"),
        "Create and run a new container from an image",
        "labkit.cli.runners.run:run",
        "IMAGE [COMMAND] [ARG...]",
        RUN_FLAGS,
        1,
        -1,
        interspersed=False,
        complete=("image", ""),
        examples=("run --rm busybox echo hello", "run -d --name web -m 64m busybox httpd -f"),
        common=1,
    ),
    Command(
        _names("start"),
        "Start one or more stopped containers",
        f"{_PROCESSES}:start",
        "CONTAINER [CONTAINER...]",
        (
            Flag("attach", "a", "bool", "Attach STDOUT/STDERR and forward signals"),
            DETACH_KEYS,
            Flag("interactive", "i", "bool", "Attach container's STDIN"),
        ),
        1,
        -1,
        complete=("stopped",),
    ),
    Command(
        _names("stats"),
        "Display a live stream of container(s) resource usage statistics",
        "labkit.cli.runners.stats:stats",
        "[CONTAINER...]",
        (
            Flag("all", "a", "bool", "Show all containers (default shows just running)"),
            LIST_FORMAT,
            Flag("no-stream", "", "bool", "Disable streaming stats and only pull the first result"),
            Flag("no-trunc", "", "bool", "Do not truncate output"),
        ),
        most=-1,
        complete=("running",),
    ),
    Command(
        _names("stop"),
        "Stop one or more running containers",
        f"{_LIFECYCLE}:stop",
        "CONTAINER [CONTAINER...]",
        (_SIGNAL, _TIMEOUT, _TIME),
        1,
        -1,
        complete=("running",),
    ),
    Command(
        _names("top"),
        "Display the running processes of a container",
        f"{_LISTS}:top",
        "CONTAINER [ps OPTIONS]",
        least=1,
        most=-1,
        interspersed=False,
        complete=("running", ""),
    ),
    Command(
        _names("unpause"),
        "Unpause all processes within one or more containers",
        f"{_LIFECYCLE}:unpause",
        "CONTAINER [CONTAINER...]",
        least=1,
        most=-1,
        complete=("running",),
    ),
    Command(
        _names("update"),
        "Update configuration of one or more containers",
        "labkit.cli.runners.updating:update",
        "CONTAINER [CONTAINER...]",
        UPDATE_FLAGS,
        1,
        -1,
        complete=("container",),
    ),
    Command(
        _names("wait"),
        "Block until one or more containers stop, then print their exit codes",
        f"{_LIFECYCLE}:wait",
        "CONTAINER [CONTAINER...]",
        least=1,
        most=-1,
        complete=("container",),
    ),
)
