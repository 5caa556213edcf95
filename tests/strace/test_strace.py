"""The trace is what happened: compared with strace(1), call by call, with arguments and results, in both directions."""

from __future__ import annotations

import pytest

from tests.strace.observing import SCENARIOS, Observation

pytestmark = pytest.mark.root


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_first_process_made_the_calls_of_its_trace_and_no_others(scenario: str, observation: Observation) -> None:
    pid = observation.plans[scenario]["pids"]["init"]
    assert observation.traced(scenario, "init") == observation.seen(pid)


def test_the_spawner_made_the_calls_of_all_traces_and_no_others(observation: Observation) -> None:
    """In order, but for forks: a child may be forked ahead, by the fork server, before its container is asked for."""
    traced = [call for scenario in SCENARIOS for call in observation.traced(scenario, "spawner")]
    seen = observation.seen(observation.spawner)
    assert [call for call in traced if not _forks(call)] == [call for call in seen if not _forks(call)]
    programs = {plan["pids"]["init"] for plan in observation.plans.values()}
    own = [call for call in seen if _forks(call)]
    others = set(observation.processes()) - programs
    forks = [call for pid in others for call in observation.seen(pid) if _forks(call)]
    forks = [call for call in own + forks if int(call.rpartition(" = ")[2]) in programs]
    assert sorted(call for call in traced if _forks(call)) == sorted(forks)


def test_no_other_process_ran_a_program(observation: Observation) -> None:
    ran = [pid for pid in observation.processes() if any(call.startswith("execve(") for call in observation.seen(pid))]
    assert ran == sorted(plan["pids"]["init"] for plan in observation.plans.values())


def test_the_comparison_is_about_what_makes_a_container(observation: Observation) -> None:
    """A comparison of two empty lists would pass: each kind of call was there to be compared."""
    seen = {call.partition("(")[0] for call in observation.traced("user", "init")}
    assert seen >= {"mount", "open_tree", "move_mount", "pivot_root", "umount2", "chdir", "sethostname", "mknod"}
    assert seen >= {"seccomp", "prctl", "setgroups", "setresgid", "setresuid", "capset", "execve", "write"}
    assert {"clone3", "mkdir"} <= {call.partition("(")[0] for call in observation.traced("plain", "spawner")}
    told = {call.split(" of ")[0] for call in observation.traced("network", "init")}
    assert told >= {"RTM_NEWLINK", "RTM_NEWADDR", "RTM_NEWROUTE", "NFT_MSG_NEWTABLE", "NFT_MSG_NEWRULE"}
    assert "setns" in {call.partition("(")[0] for call in observation.traced("exec", "init")}


def _forks(call: str) -> bool:
    return call.startswith("clone3(")
