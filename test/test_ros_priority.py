"""Nodes that move no arm wait for those that do."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

OTHER, FIFO = 0, 1
"""`SCHED_OTHER` and `SCHED_FIFO` of Linux."""
ASK = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
PROGRAM = """
import os, sys, pathlib
from starry_ros.ros.priority import yield_cores
before = os.getpriority(os.PRIO_PROCESS, 0)
yield_cores(sys.argv[1])
group = pathlib.Path("/proc/self/autogroup")
said = group.read_text().split() if group.exists() else []  # nothing: this process is in no session's group
print(os.getpriority(os.PRIO_PROCESS, 0) - before, said[-1] if said else "none")
"""


def started(node: str, own_session: bool) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, node]
    return subprocess.run(command, capture_output=True, text=True, check=True,
                          start_new_session=own_session).stdout.split()


@pytest.mark.parametrize(("node", "steps"), [
    ("action_executor", "0"), ("sim_robot", "0"), ("canvas_packer", "0"), ("world_action", "5"),
    ("value_map_visualizer", "10"), ("recorder", "5"),
])
def test_what_moves_the_arms_keeps_its_priority_and_the_rest_yields(node, steps):
    assert started(node, own_session=False)[0] == steps


def test_a_node_in_a_session_of_its_own_lowers_the_session_too():
    nice, group = started("world_action", own_session=True)
    assert (nice, group) in (("5", "5"), ("5", "none"))


def test_a_node_that_shares_its_session_leaves_the_session_alone():
    assert started("world_action", own_session=False)[1] == started("action_executor", own_session=False)[1]


HEARS = """
import os, pathlib, sys, threading
from starry_ros.ros import priority
go = threading.Event()
thread = threading.Thread(target=go.wait, daemon=True)
thread.start()
pathlib.Path(f"/proc/self/task/{thread.native_id}/comm").write_text(sys.argv[1])
if sys.argv[2] == "share":
    priority.ask_for_real_time = lambda *_: False
heard = priority.hear_first(*map(int, sys.argv[3:]))
group = pathlib.Path("/proc/self/autogroup")
said = group.read_text().split() if group.exists() else []
of = lambda thread: (os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(thread).sched_priority,
                     os.getpriority(os.PRIO_PROCESS, thread))
print(heard, *of(thread.native_id), *of(0), *said[-1:])
"""


def hears(thread: str, own_session: bool, granted: str = "real time", below: int = 40) -> list[int]:
    """How many receive first, and policy, priority and niceness of the one and of the main thread; the group's."""
    return [int(word) for word in subprocess.run(
        [sys.executable, "-c", HEARS, thread, granted, str(below)], capture_output=True, text=True, check=True,
        start_new_session=own_session).stdout.split()]


def test_threads_that_receive_go_first_and_a_session_of_the_nodes_own_gets_a_large_share():
    """By the kernel's own word; where it makes no groups, there is none to get one."""
    if subprocess.run([sys.executable, "-c", ASK], check=False, capture_output=True).returncode:
        pytest.skip("this machine grants no real-time priority")
    told = hears("dds.udp.7412", own_session=True)
    assert told[:7] == [1, FIFO, 5, 0, OTHER, 0, 0]
    assert told[7:] in ([], [-10])


def test_where_real_time_is_not_granted_threads_that_receive_get_a_large_share():
    if subprocess.run(["nice", "-n", "-10", "true"], check=False, capture_output=True).stderr:
        pytest.skip("this machine lets nobody go before others")
    assert hears("dds.udp.7412", own_session=False, granted="share")[:7] == [1, OTHER, 0, -10, OTHER, 0, 0]


@pytest.mark.parametrize(("below", "policy", "priority"), [(3, FIFO, 2), (1, OTHER, 0), (0, OTHER, 0)])
def test_threads_that_receive_never_go_before_ticks_and_have_no_real_time_where_these_have_none(
    below, policy, priority,
):
    if subprocess.run([sys.executable, "-c", ASK], check=False, capture_output=True).returncode:
        pytest.skip("this machine grants no real-time priority")
    assert hears("dds.udp.7412", own_session=False, below=below)[1:3] == [policy, priority]


@pytest.mark.parametrize(("thread", "own_session"), [("dds.udp.7412", False), ("dds.ev", True)])
def test_a_session_that_others_share_or_nobody_hears_in_is_left_alone(thread, own_session):
    before = started("action_executor", own_session)[1]
    assert [str(niceness) for niceness in hears(thread, own_session)[7:]] in ([], [before])


@pytest.mark.parametrize(("node", "turn_ns"), [("action_executor", 100_000), ("world_action", None)])
def test_the_executor_alone_asks_for_short_turns(node, turn_ns):
    """By the kernel's own word; before 6.12 it has no turns of one's own."""
    if not Path("/proc/self/sched").exists():
        pytest.skip("this kernel does not say how long turns are")
    program = ("import sys; from starry_ros.ros.priority import yield_cores; "
               "print(open('/proc/self/sched').read(), 'AFTER'); yield_cores(sys.argv[1]); "
               "print(open('/proc/self/sched').read())")
    told = subprocess.run([sys.executable, "-c", program, node], capture_output=True, text=True, check=True).stdout
    before, after = (re.search(r"se\.slice\s*:\s*(\d+)", part) for part in told.split("AFTER"))
    if before is None or after is None:
        pytest.skip("this kernel does not say how long turns are")
    if turn_ns is None:
        assert after[1] == before[1]
    elif tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 12):
        assert int(after[1]) == turn_ns


def test_a_process_with_a_policy_of_its_own_keeps_it():
    program = ("import os; from starry_ros.turns import ask_for_real_time, ask_for_short_turns; "
               "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); "
               "print(ask_for_short_turns(), ask_for_real_time(), os.sched_getscheduler(0) == os.SCHED_BATCH)")
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False", "False", "True"]


REAL_TIME = """
import os, sys, threading
from starry_ros.turns import ask_for_real_time, real_time
if sys.argv[1] == "nobody":
    import resource
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    if os.geteuid() == 0:
        os.setuid(65534)
policies = []
def tell():
    policies.append(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
def tell_both():
    tell()
    thread = threading.Thread(target=tell)
    thread.start()
    thread.join()
with real_time() as granted:
    tell_both()
tell()
again = ask_for_real_time()
tell_both()
print(granted, again, *policies)
"""


def test_real_time_turns_are_for_the_thread_that_asks_alone_and_end_with_the_block():
    if subprocess.run([sys.executable, "-c", ASK], check=False, capture_output=True).returncode:
        pytest.skip("this machine grants no real-time priority")
    told = subprocess.run([sys.executable, "-c", REAL_TIME, "-"], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["True", "True", *map(str, [FIFO, OTHER, OTHER, FIFO, OTHER])]


def test_without_the_privilege_turns_stay_ordinary_and_nothing_fails():
    told = subprocess.run([sys.executable, "-c", REAL_TIME, "nobody"], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "False", *[str(OTHER)] * 5]
