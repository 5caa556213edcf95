"""The trace is what happened: compared with strace(1), call by call, with arguments and results, in both directions."""

from __future__ import annotations

import pytest

from tests.strace.observing import SCENARIOS, Observation

pytestmark = pytest.mark.root


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_first_process_made_the_calls_of_its_trace_and_no_others(scenario: str, observation: Observation) -> None:
    pid = observation.plans[scenario]["pids"]["init"]
    assert observation.traced(scenario, "init") == observation.seen(pid)


def test_the_spawner_and_its_lenders_made_the_calls_of_all_traces_and_no_others(observation: Observation) -> None:
    """The spawner's in order; those by which a lender makes children may come before their container is asked for."""
    traced = [call for scenario in SCENARIOS for call in observation.traced(scenario, "spawner")]
    own = observation.seen(observation.spawner)
    assert [call for call in traced if not _makes(call)] == [call for call in own if not _makes(call)]
    programs = {plan["pids"]["init"] for plan in observation.plans.values()}
    lenders = [pid for pid in set(observation.processes()) - programs if any(map(_makes, observation.seen(pid)))]
    made = [call for pid in (observation.spawner, *lenders) for call in observation.seen(pid) if _makes(call)]
    children = [call for call in made if _child(call) in programs]
    assert sorted(call for call in traced if _child(call)) == sorted(children)
    entered, by_spawner, by_lenders = (
        sum(call.startswith("setns(") for call in calls)
        for calls in (traced, own, [call for pid in lenders for call in observation.seen(pid)])
    )
    assert by_spawner  # in and back again, at least for the first exec; both are in its trace
    assert by_lenders == 2 * (entered - by_spawner)


def test_no_other_process_ran_a_program(observation: Observation) -> None:
    ran = [pid for pid in observation.processes() if any(call.startswith("execve(") for call in observation.seen(pid))]
    assert ran == sorted(plan["pids"]["init"] for plan in observation.plans.values())


def test_the_comparison_is_about_what_makes_a_container(observation: Observation) -> None:
    """A comparison of two empty lists would pass: each kind of call was there to be compared."""
    seen = {call.partition("(")[0] for call in observation.traced("user", "init")}
    assert seen >= {"mount", "open_tree", "move_mount", "pivot_root", "umount2", "chdir", "sethostname", "mknod"}
    assert seen >= {"seccomp", "prctl", "setgroups", "setresgid", "setresuid", "capset", "execve", "write"}
    assert {"clone3", "mkdir"} <= {call.partition("(")[0] for call in observation.traced("plain", "spawner")}
    made = [call for name in SCENARIOS for call in observation.traced(name, "spawner")]
    assert "clone" in {call.partition("(")[0] for call in made}
    told = {call.split(" of ")[0] for call in observation.traced("network", "init")}
    assert told >= {"RTM_NEWLINK", "RTM_NEWADDR", "RTM_NEWROUTE", "NFT_MSG_NEWTABLE", "NFT_MSG_NEWRULE"}
    assert "setns" in {call.partition("(")[0] for call in observation.traced("exec", "init")}


def _makes(call: str) -> bool:
    """Whether a call is of those that make a child."""
    return call.startswith(("clone(", "clone3(", "setns("))


def _child(call: str) -> int:
    """The pid of the child that a call has made, or 0."""
    return 0 if call.startswith("setns(") or not _makes(call) else int(call.rpartition(" = ")[2])
