"""Docker's default filter: what a container may ask of the kernel when nobody says otherwise.

A list of what is allowed; all else fails with EPERM. It agrees with moby's `seccomp/default.json`, but is ordered
by what the calls are for. "Old" marks calls that newer ones have replaced, and those of 32-bit programs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# What any program does to its own files, memory, time and children.
FILES = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync flock fstat fstatfs fsync ftruncate
futimesat getcwd getdents getdents64 ioctl lchown link linkat lseek lstat mkdir mkdirat mknod mknodat newfstatat open
openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename
renameat renameat2 rmdir stat statfs statx symlink symlinkat sync sync_file_range syncfs truncate umask unlink
unlinkat utime utimensat utimes write writev
chown32 fadvise64_64 fchown32 fcntl64 fstat64 fstatat64 fstatfs64 ftruncate64 lchown32 _llseek lstat64 stat64
statfs64 truncate64 utimensat_time64
"""
ATTRIBUTES = """
fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr
lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat
"""
# Looking at mounts and watching files; changing mounts needs CAP_SYS_ADMIN, below. A handle can be named, not opened.
WATCHING = """
fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch listmount name_to_handle_at statmount
"""
PIPES_AND_POLLING = """
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
pipe pipe2 poll ppoll pselect6 select sendfile splice tee vmsplice
_newselect ppoll_time64 pselect6_time64 sendfile64
"""
ASYNCHRONOUS_IO = """
io_cancel io_destroy io_getevents io_pgetevents ioprio_get ioprio_set io_setup io_submit
io_pgetevents_time64
"""  # io_uring is missing on purpose: too many ways out of containers led through it
MEMORY = """
brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mprotect mremap
mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages
mmap2
"""
PROCESSES = """
execve execveat exit exit_group fork getpgid getpgrp getpid getppid getsid gettid pause pidfd_open pidfd_send_signal
prctl process_mrelease restart_syscall setpgid setsid set_tid_address vfork wait4 waitid waitpid
"""
THREADS = """
futex futex_requeue futex_wait futex_waitv futex_wake get_robust_list get_thread_area rseq set_robust_list
set_thread_area
futex_time64
"""
SIGNALS = """
kill rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_tgsigqueueinfo sigaltstack signalfd signalfd4 tgkill tkill
rt_sigtimedwait_time64 sigprocmask sigreturn
"""
SCHEDULING = """
getcpu getpriority sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
setpriority
sched_rr_get_interval_time64
"""
# Asking the time, and adjtimex to read the clock's state; setting a clock needs CAP_SYS_TIME, below (and adjtimex too,
# by the kernel's own check).
TIME = """
adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer
time timer_create timer_delete timerfd_create timerfd_gettime timerfd_settime timer_getoverrun timer_gettime
timer_settime times
clock_adjtime64 clock_getres_time64 clock_gettime64 clock_nanosleep_time64 timerfd_gettime64 timerfd_settime64
timer_gettime64 timer_settime64
"""
# The kernel lets a process become someone else only with CAP_SETUID and CAP_SETGID, so the filter needn't ask.
IDENTITY = """
capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid setgroups setregid
setresgid setresuid setreuid setuid
getegid32 geteuid32 getgid32 getgroups32 getresgid32 getresuid32 getuid32 setfsgid32 setfsuid32 setgid32 setgroups32
setregid32 setresgid32 setresuid32 setreuid32 setuid32
"""
LIMITS_AND_FACTS = """
cachestat getrandom getrlimit getrusage prlimit64 riscv_hwprobe setrlimit sysinfo uname uretprobe
ugetrlimit
"""
# socket itself is below, since it depends on the address family. A filter can't look behind socketcall's pointer.
SOCKETS = """
accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg
sendto setsockopt shutdown socketpair
recv recvmmsg_time64 send socketcall
"""
SYSTEM_V_AND_POSIX_IPC = """
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop
semtimedop shmat shmctl shmdt shmget
ipc mq_timedreceive_time64 mq_timedsend_time64 semtimedop_time64
"""
# A process may always give up more of its own rights.
SANDBOXES = "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp"

ALWAYS = (
    FILES, ATTRIBUTES, WATCHING, PIPES_AND_POLLING, ASYNCHRONOUS_IO, MEMORY, PROCESSES, THREADS, SIGNALS, SCHEDULING,
    TIME, IDENTITY, LIMITS_AND_FACTS, SOCKETS, SYSTEM_V_AND_POSIX_IPC, SANDBOXES,
)  # fmt: skip

# Until Linux 4.8 a traced process could change its system call behind the filter's back.
SINCE_4_8 = "process_vm_readv process_vm_writev ptrace"

# AF_ALG (38: the kernel's cryptography) and AF_VSOCK (40: the way to the virtual machine's host) are left out.
SOCKET_FAMILIES = (("SCMP_CMP_LT", 38), ("SCMP_CMP_EQ", 39), ("SCMP_CMP_GT", 40))

# personality(2) can switch off address randomisation; harmless are PER_LINUX, PER_LINUX32, either with UNAME26, and
# 0xffffffff, which only asks.
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# clone(2) with none of CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET: a new user namespace would
# give its maker all capabilities over much of the kernel's code.
NEW_NAMESPACES = 0x7E020000

# What a capability opens; without it, the kernel would refuse most of these anyway.
BY_CAPABILITY = (
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),  # leaves the container's root: the "shocker" exploit of 2014
    ("CAP_SYS_ADMIN", """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
        lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
        sethostname setns syslog umount umount2 unshare
     """),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
)  # fmt: skip

BY_ARCHITECTURE = (
    (("ppc64le",), "sync_file_range2 swapcontext"),
    (("arm", "arm64"), "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
    (("amd64", "x32"), "arch_prctl"),
    (("amd64", "x32", "x86"), "modify_ldt"),
    (("s390", "s390x"), "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    (("riscv64",), "riscv_flush_icache"),
)

# An architecture, and the others whose programs its kernel runs too.
ARCHITECTURE_FAMILIES = (
    ("X86_64", "X86 X32"),
    ("AARCH64", "ARM"),
    ("MIPS64", "MIPS MIPS64N32"),
    ("MIPS64N32", "MIPS MIPS64"),
    ("MIPSEL64", "MIPSEL MIPSEL64N32"),
    ("MIPSEL64N32", "MIPSEL MIPSEL64"),
    ("S390X", "S390"),
    ("RISCV64", ""),
    ("LOONGARCH64", ""),
)

_S390 = ["s390", "s390x"]


def default_profile() -> dict[str, Any]:
    """Docker's default profile, in the format of `--security-opt seccomp=FILE`."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": f"SCMP_ARCH_{name}", "subArchitectures": [f"SCMP_ARCH_{sub}" for sub in subs.split()]}
            for name, subs in ARCHITECTURE_FAMILIES
        ],
        "syscalls": [*_unconditional(), *_by_argument(), *_namespaces()],
    }


def _allow(names: str, args: Iterable[dict[str, Any]] = (), **when: dict[str, Any]) -> dict[str, Any]:
    rule = {"names": names.split(), "action": "SCMP_ACT_ALLOW", **when}
    return {**rule, "args": list(args)} if args else rule


def _unconditional() -> list[dict[str, Any]]:
    """Calls whose arguments don't matter."""
    return [
        *(_allow(names) for names in ALWAYS),
        _allow(SINCE_4_8, includes={"minKernel": "4.8"}),
        *(_allow(names, includes={"arches": list(arches)}) for arches, names in BY_ARCHITECTURE),
        *(_allow(names, includes={"caps": [capability]}) for capability, names in BY_CAPABILITY),
    ]


def _by_argument() -> list[dict[str, Any]]:
    return [
        *(_allow("socket", [{"index": 0, "value": family, "op": op}]) for op, family in SOCKET_FAMILIES),
        *(_allow("personality", [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]) for value in PERSONALITIES),
    ]


def _namespaces() -> list[dict[str, Any]]:
    """Threads and child processes, but no namespaces, unless CAP_SYS_ADMIN allows all of clone."""

    def without_namespaces(index: int) -> list[dict[str, Any]]:
        return [{"index": index, "value": NEW_NAMESPACES, "op": "SCMP_CMP_MASKED_EQ"}]

    admin = ["CAP_SYS_ADMIN"]
    return [
        _allow("clone", without_namespaces(0), excludes={"caps": admin, "arches": _S390}),
        _allow("clone", without_namespaces(1), includes={"arches": _S390}, excludes={"caps": admin}),
        # A filter can't look behind clone3's pointer. ENOSYS makes C libraries fall back to clone.
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": admin}},
    ]
