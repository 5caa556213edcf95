"""The options of `create` and `run`, as data: what `docker` 28 accepts (Engine API `ContainerCreate`)."""

from __future__ import annotations

from labkit.cli.grammar import Flag

_CGROUPNS_HELP = """Cgroup namespace to use (host|private)
'host':    Run the container in the Docker host's cgroup namespace
'private': Run the container in its own private cgroup namespace
'':        Use the cgroup namespace as configured by the
           default-cgroupns-mode option on the daemon (default)"""

CONTAINER_FLAGS = (
    Flag("add-host", "", "list", "Add a custom host-to-IP mapping (host:ip)", value="extra-host"),
    Flag(
        "annotation",
        "",
        "map",
        "Add an annotation to the container (passed through to the OCI runtime) (default map[])",
    ),
    Flag("attach", "a", "list", "Attach to STDIN, STDOUT or STDERR", value="stream", complete="stdin|stdout|stderr"),
    Flag("blkio-weight", "", "uint16", "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)"),
    Flag(
        "blkio-weight-device",
        "",
        "list",
        "Block IO weight (relative device weight) (default [])",
        value="weight-device",
    ),
    Flag("cap-add", "", "list", "Add Linux capabilities", complete="capability"),
    Flag("cap-drop", "", "list", "Drop Linux capabilities", complete="capability"),
    Flag("cgroup-parent", "", "string", "Optional parent cgroup for the container"),
    Flag("cgroupns", "", "string", _CGROUPNS_HELP, complete="host|private"),
    Flag("cidfile", "", "string", "Write the container ID to the file", complete="file"),
    Flag("cpu-count", "", "int", "CPU count (Windows only)"),
    Flag("cpu-percent", "", "int", "CPU percent (Windows only)"),
    Flag("cpu-period", "", "int", "Limit CPU CFS (Completely Fair Scheduler) period"),
    Flag("cpu-quota", "", "int", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    Flag("cpu-rt-period", "", "int", "Limit CPU real-time period in microseconds"),
    Flag("cpu-rt-runtime", "", "int", "Limit CPU real-time runtime in microseconds"),
    Flag("cpu-shares", "c", "int", "CPU shares (relative weight)"),
    Flag("cpus", "", "decimal", "Number of CPUs"),
    Flag("cpuset-cpus", "", "string", "CPUs in which to allow execution (0-3, 0,1)"),
    Flag("cpuset-mems", "", "string", "MEMs in which to allow execution (0-3, 0,1)"),
    Flag("device", "", "list", "Add a host device to the container", complete="file"),
    Flag("device-cgroup-rule", "", "list", "Add a rule to the cgroup allowed devices list", value="device-rule"),
    Flag(
        "device-read-bps",
        "",
        "list",
        "Limit read rate (bytes per second) from a device (default [])",
        value="throttle",
    ),
    Flag("device-read-iops", "", "list", "Limit read rate (IO per second) from a device (default [])", value="iops"),
    Flag(
        "device-write-bps",
        "",
        "list",
        "Limit write rate (bytes per second) to a device (default [])",
        value="throttle",
    ),
    Flag("device-write-iops", "", "list", "Limit write rate (IO per second) to a device (default [])", value="iops"),
    Flag("dns", "", "list", "Set custom DNS servers", value="address"),
    Flag("dns-option", "", "list", "Set DNS options"),
    Flag("dns-search", "", "list", "Set custom DNS search domains", value="domain"),
    Flag("domainname", "", "string", "Container NIS domain name"),
    Flag("entrypoint", "", "string", "Overwrite the default ENTRYPOINT of the image"),
    Flag("env", "e", "list", "Set environment variables", value="env", complete="env"),
    Flag("env-file", "", "list", "Read in a file of environment variables", complete="file"),
    Flag("expose", "", "list", "Expose a port or a range of ports"),
    Flag("gpus", "", "gpu-request", "GPU devices to add to the container ('all' to pass all GPUs)"),
    Flag("group-add", "", "list", "Add additional groups to join"),
    Flag("health-cmd", "", "string", "Command to run to check health"),
    Flag("health-interval", "", "duration", "Time between running the check (ms|s|m|h) (default 0s)"),
    Flag("health-retries", "", "int", "Consecutive failures needed to report unhealthy"),
    Flag(
        "health-start-interval",
        "",
        "duration",
        "Time between running the check during the start period (ms|s|m|h) (default 0s)",
    ),
    Flag(
        "health-start-period",
        "",
        "duration",
        "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)",
    ),
    Flag("health-timeout", "", "duration", "Maximum time to allow one check to run (ms|s|m|h) (default 0s)"),
    Flag("hostname", "h", "string", "Container host name"),
    Flag("init", "", "bool", "Run an init inside the container that forwards signals and reaps processes"),
    Flag("interactive", "i", "bool", "Keep STDIN open even if not attached"),
    Flag("io-maxbandwidth", "", "bytes", "Maximum IO bandwidth limit for the system drive (Windows only)"),
    Flag("io-maxiops", "", "uint", "Maximum IOps limit for the system drive (Windows only)"),
    Flag("ip", "", "string", "IPv4 address (e.g., 172.30.100.104)"),
    Flag("ip6", "", "string", "IPv6 address (e.g., 2001:db8::33)"),
    Flag("ipc", "", "string", "IPC mode to use", complete="none|host|private|shareable"),
    Flag("isolation", "", "string", "Container isolation technology"),
    Flag("kernel-memory", "", "bytes", "Kernel memory limit"),
    Flag("label", "l", "list", "Set meta data on a container", value="label"),
    Flag("label-file", "", "list", "Read in a line delimited file of labels", complete="file"),
    Flag("link", "", "list", "Add link to another container", value="link", complete="container"),
    Flag("link-local-ip", "", "list", "Container IPv4/IPv6 link-local addresses"),
    Flag("log-driver", "", "string", "Logging driver for the container"),
    Flag("log-opt", "", "list", "Log driver options"),
    Flag("mac-address", "", "string", "Container MAC address (e.g., 92:d0:c6:0a:29:33)"),
    Flag("memory", "m", "bytes", "Memory limit"),
    Flag("memory-reservation", "", "bytes", "Memory soft limit"),
    Flag(
        "memory-swap",
        "",
        "bytes",
        "Swap limit equal to memory plus swap: '-1' to enable unlimited swap",
        value="swap",
    ),
    Flag("memory-swappiness", "", "int", "Tune container memory swappiness (0 to 100) (default -1)"),
    Flag("mount", "", "mount", "Attach a filesystem mount to the container"),
    Flag("network", "", "network", "Connect a container to a network", complete="network"),
    Flag("network-alias", "", "list", "Add network-scoped alias for the container"),
    Flag("no-healthcheck", "", "bool", "Disable any container-specified HEALTHCHECK"),
    Flag("oom-kill-disable", "", "bool", "Disable OOM Killer"),
    Flag("oom-score-adj", "", "int", "Tune host's OOM preferences (-1000 to 1000)"),
    Flag("pid", "", "string", "PID namespace to use", complete="host"),
    Flag("pids-limit", "", "int", "Tune container pids limit (set -1 for unlimited)"),
    Flag("privileged", "", "bool", "Give extended privileges to this container"),
    Flag("publish", "p", "list", "Publish a container's port(s) to the host"),
    Flag("publish-all", "P", "bool", "Publish all exposed ports to random ports"),
    Flag("read-only", "", "bool", "Mount the container's root filesystem as read only"),
    Flag(
        "restart",
        "",
        "string",
        'Restart policy to apply when a container exits (default "no")',
        complete="no|always|on-failure|unless-stopped",
    ),
    Flag("rm", "", "bool", "Automatically remove the container and its associated anonymous volumes when it exits"),
    Flag("runtime", "", "string", "Runtime to use for this container"),
    Flag("security-opt", "", "list", "Security Options"),
    Flag("shm-size", "", "bytes", "Size of /dev/shm"),
    Flag("stop-signal", "", "string", "Signal to stop the container", complete="signal"),
    Flag("stop-timeout", "", "int", "Timeout (in seconds) to stop a container"),
    Flag("storage-opt", "", "list", "Storage driver options for the container"),
    Flag("sysctl", "", "map", "Sysctl options (default map[])", value="sysctl"),
    Flag("tmpfs", "", "list", "Mount a tmpfs directory"),
    Flag("tty", "t", "bool", "Allocate a pseudo-TTY"),
    Flag("ulimit", "", "ulimit", "Ulimit options (default [])"),
    Flag("use-api-socket", "", "bool", "Bind mount Docker API socket and required auth"),
    Flag("user", "u", "string", "Username or UID (format: <name|uid>[:<group|gid>])"),
    Flag("userns", "", "string", "User namespace to use", complete="host"),
    Flag("uts", "", "string", "UTS namespace to use", complete="host"),
    Flag("volume", "v", "list", "Bind mount a volume", complete="file"),
    Flag("volume-driver", "", "string", "Optional volume driver for the container"),
    Flag("volumes-from", "", "list", "Mount volumes from the specified container(s)", complete="container"),
    Flag("workdir", "w", "string", "Working directory inside the container"),
    Flag("net", "", "network", same_as="network", complete="network"),
    Flag("net-alias", "", "list", same_as="network-alias"),
    Flag("dns-opt", "", "list", same_as="dns-option"),
    # Options of the command itself, not of the container:
    Flag("disable-content-trust", "", "bool", "Skip image verification (default true)"),
    Flag("help", "", "bool", "Print usage"),
    Flag("name", "", "string", "Assign a name to the container"),
    Flag("platform", "", "string", "Set platform if server is multi-platform capable"),
    Flag("quiet", "q", "bool", "Suppress the pull output"),
)

_PULL = 'Pull image before {} ("always", "missing", "never") (default "missing")'

CREATE_FLAGS = (*CONTAINER_FLAGS, Flag("pull", "", "string", _PULL.format("creating"), complete="always|missing|never"))

RUN_FLAGS = (
    *CONTAINER_FLAGS,
    Flag("detach", "d", "bool", "Run container in background and print container ID"),
    Flag("detach-keys", "", "string", "Override the key sequence for detaching a container"),
    Flag("pull", "", "string", _PULL.format("running"), complete="always|missing|never"),
    Flag("sig-proxy", "", "bool", "Proxy received signals to the process (default true)"),
)

_UPDATED = frozenset(
    ("blkio-weight", "cpu-period", "cpu-quota", "cpu-shares", "cpus", "cpuset-cpus", "cpuset-mems", "memory",
     "memory-reservation", "pids-limit")
)  # fmt: skip
_POLICIES = "no|always|on-failure|unless-stopped"
_MEMORY_SWAP = "Swap limit equal to memory plus swap: -1 to enable unlimited swap"

UPDATE_FLAGS = (
    *(flag for flag in CONTAINER_FLAGS if flag.name in _UPDATED),
    Flag("cpu-rt-period", "", "int", "Limit the CPU real-time period in microseconds"),
    Flag("cpu-rt-runtime", "", "int", "Limit the CPU real-time runtime in microseconds"),
    Flag("memory-swap", "", "bytes", _MEMORY_SWAP),
    Flag("restart", "", "string", "Restart policy to apply when a container exits", complete=_POLICIES),
)
