"""What the kernel has counted: files as kernels write them, and this kernel's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labkit.kernel import accounting
from labkit.kernel.accounting import Traffic, Transfer, usage
from labkit.kernel.cgroups import Layout, read_layout

NET_DEV = """Inter-| Receive | Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:       1       2    3    4    0     0          0         0        5       6    7    8    0     0       0     0
  eth0:1338905905   30219    0    0    0     0          0         0  1450874   16403    0    0    0     0       0     0
"""


def test_traffic() -> None:
    found = accounting.read_traffic(NET_DEV)
    assert found["lo"] == Traffic(1, 2, 3, 4, 5, 6, 7, 8)
    assert found["eth0"].rx_bytes == 1338905905
    assert accounting.traffic(os.getpid(), ["lo", "nosuch"]).keys() == {"lo"}
    assert accounting.traffic(1 << 29, ["lo"]) == {}


def test_transfers() -> None:
    assert accounting.transfers_v1("8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n") == (
        Transfer(8, 0, "Read", 4096), Transfer(8, 0, "Total", 4096),
    )  # fmt: skip
    line = "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:0 \n"
    assert accounting.transfers_v2(line, "bytes") == (Transfer(8, 16, "read", 1), Transfer(8, 16, "write", 2))
    assert accounting.transfers_v2(line, "ios") == (Transfer(8, 16, "read", 3), Transfer(8, 16, "write", 4))


def test_tables() -> None:
    assert accounting.table("cache 4096\nodd\nsome avg10=0.00\nmax 1\n") == {"cache": 4096, "max": 1}
    assert accounting.cpu_time("cpu  1 2 3 4 5 6 7 8 9 10") == 28 * 10**9 // os.sysconf("SC_CLK_TCK")


def test_a_cgroup_of_v2(tmp_path: Path) -> None:
    files = {
        "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
        "memory.current": "8192\n", "memory.max": "max\n", "memory.stat": "anon 4096\nfile 0\n",
        "memory.events": "low 0\noom 2\noom_kill 1\n", "pids.current": "3\n", "pids.max": "max\n",
        "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
    }  # fmt: skip
    (tmp_path / "c").mkdir()
    for name, content in files.items():
        (tmp_path / "c" / name).write_text(content)
    found = usage(Layout((), str(tmp_path)), "/c")
    assert found is not None
    assert (found.cpu, found.user, found.kernel) == (30_000, 20_000, 10_000)
    assert (found.periods, found.throttled_periods, found.throttled) == (4, 3, 2000)
    assert (found.memory_used, found.memory_limit, found.memory_failures) == (8192, accounting.UNLIMITED, 2)
    assert found.memory == {"anon": 4096, "file": 0}
    assert (found.processes, found.process_limit) == (3, accounting.UNLIMITED)
    assert [one.value for one in found.io_bytes + found.io_requests] == [1, 2, 3, 4]
    assert found.per_cpu == ()


def test_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    assert usage(Layout((), str(tmp_path)), "/c") is None
    assert usage(read_layout(), "/no/such") is None


def test_controllers_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    found = usage(Layout((("pids", str(tmp_path)),), ""), "/c")
    assert found == accounting.Usage()


def test_this_machine() -> None:
    spent, cpus = accounting.machine_cpu()
    assert spent > 0
    assert cpus == os.sysconf("SC_NPROCESSORS_ONLN")


@pytest.mark.root
def test_this_kernel() -> None:
    """The root of the trees has most of the files."""
    found = usage(read_layout(), "/")
    assert found is not None
    assert found.cpu > 0
    assert found.memory
