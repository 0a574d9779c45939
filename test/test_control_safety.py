"""The mode machine, walked through completely."""

from __future__ import annotations

from itertools import product

import pytest

from starry_ros.control.safety import BLOCKING, SERVICES, SLOWING, TABLE, Event, Mode, SafetyMachine

MOVING = {Mode.RUN, Mode.SLOW}
LASTING = sorted(BLOCKING | SLOWING)
MOMENTARY = sorted(set(Event) - set(SERVICES) - set(LASTING) - {Event.ESTOP_RELEASED, Event.ALL_CLEAR})
State = tuple[Mode, frozenset[Event]]


def machine_in(mode: Mode, conditions: frozenset[Event] = frozenset()) -> SafetyMachine:
    machine = SafetyMachine()
    machine.mode = mode
    machine._conditions = set(conditions)
    return machine


def moves(machine: SafetyMachine) -> list[tuple[str, Event]]:
    """Everything that can happen: services, momentary events, conditions that begin, last and end."""
    return [
        *(("request", service) for service in SERVICES), *(("handle", event) for event in MOMENTARY),
        *(("begin", event) for event in LASTING), *(("end", event) for event in LASTING),
    ]


def after(state: State, move: tuple[str, Event]) -> State:
    machine, (kind, event) = machine_in(*state), move
    if kind == "request":
        machine.request(event)
    elif kind == "handle":
        machine.handle(event)
    else:
        machine.set_condition(event, kind == "begin")
    return machine.mode, machine.conditions


def reachable() -> dict[State, list[tuple[tuple[str, Event], State]]]:
    """Every state that can be reached from the start, with every move out of it."""
    start: State = (SafetyMachine().mode, frozenset())
    graph: dict[State, list[tuple[tuple[str, Event], State]]] = {}
    waiting = [start]
    while waiting:
        state = waiting.pop()
        if state not in graph:
            graph[state] = [(move, after(state, move)) for move in moves(machine_in(*state))]
            waiting += [there for _, there in graph[state]]
    return graph


GRAPH = reachable()


def test_the_table_is_complete_and_the_machine_starts_disarmed() -> None:
    assert set(TABLE) == set(product(Mode, Event))
    assert all(TABLE[mode, event] is not None for mode in Mode for event in set(Event) - set(SERVICES))
    assert SafetyMachine().mode is Mode.DISARMED


def test_every_mode_is_reached_with_every_set_of_conditions_that_it_allows() -> None:
    assert {mode for mode, _ in GRAPH} == set(Mode)
    assert len(GRAPH) > 200


@pytest.mark.parametrize("mode", [Mode.FAULT, Mode.STOP, Mode.HOLD, Mode.DISARMED])
def test_only_the_service_arm_leads_from_standing_still_to_motion(mode: Mode) -> None:
    for (here, conditions), out in GRAPH.items():
        for move, (there, _) in out:
            if here is mode and there in MOVING:
                assert move == ("request", Event.ARM)
                assert mode is not Mode.FAULT
                assert not conditions & BLOCKING


def test_a_fault_is_left_only_by_its_reset_with_the_cause_gone_and_towards_disarmed() -> None:
    for (here, conditions), out in GRAPH.items():
        for move, (there, _) in out:
            if here is Mode.FAULT and there is not Mode.FAULT:
                assert move == ("request", Event.RESET_FAULT)
                assert there is Mode.DISARMED
                assert not conditions & BLOCKING


def test_no_sequence_without_services_ever_leads_to_motion() -> None:
    """From every standing state, follow all moves but services to the end."""
    for start in [state for state in GRAPH if state[0] not in MOVING]:
        seen, waiting = set(), [start]
        while waiting:
            state = waiting.pop()
            if state in seen:
                continue
            seen.add(state)
            waiting += [there for move, there in GRAPH[state] if move[0] != "request"]
        assert not {mode for mode, _ in seen} & MOVING


def test_the_most_restrictive_wins() -> None:
    """No observed event makes a mode less restrictive, except the end of the last reason to be slow."""
    rank = {Mode.RUN: 0, Mode.SLOW: 1, Mode.HOLD: 2, Mode.STOP: 3, Mode.FAULT: 4, Mode.DISARMED: 5}
    for mode, event in product(Mode, set(Event) - set(SERVICES)):
        there = TABLE[mode, event]
        assert there is not None
        relaxed = rank[there] < rank[mode]
        assert not relaxed or (mode, event, there) == (Mode.SLOW, Event.ALL_CLEAR, Mode.RUN)


def test_motion_is_never_at_full_speed_while_there_is_a_reason_to_be_slow() -> None:
    for mode, conditions in GRAPH:
        if conditions & SLOWING:
            assert mode is not Mode.RUN
        if conditions & BLOCKING:
            assert mode not in MOVING


def test_stop_is_answered_in_every_mode_and_never_leads_to_motion() -> None:
    for mode in Mode:
        machine = machine_in(mode)
        assert machine.request(Event.STOP).ok
        assert machine.mode not in MOVING
        assert machine.mode is (mode if mode in (Mode.DISARMED, Mode.FAULT) else Mode.STOP)


@pytest.mark.parametrize(("mode", "service"), sorted(product(Mode, SERVICES)))
def test_a_service_call_is_refused_in_words_exactly_where_the_table_refuses(mode: Mode, service: Event) -> None:
    machine = machine_in(mode)
    reply = machine.request(service)
    assert reply.ok is (TABLE[mode, service] is not None)
    if not reply.ok:
        assert machine.mode is mode
        assert service in reply.message
        assert mode in reply.message
        assert "works in" in reply.message


def test_arm_and_reset_name_the_cause_that_still_holds() -> None:
    for mode, service in ((Mode.DISARMED, Event.ARM), (Mode.STOP, Event.ARM), (Mode.FAULT, Event.RESET_FAULT)):
        for cause in BLOCKING:
            reply = machine_in(mode, frozenset({cause})).request(service)
            assert not reply.ok
            assert cause.value in reply.message


def test_arming_with_a_degraded_planner_starts_slow() -> None:
    machine = machine_in(Mode.DISARMED)
    machine.set_condition(Event.PLANNER_DEGRADED, True)
    assert machine.request(Event.ARM).ok
    assert machine.mode is Mode.SLOW
    machine.set_condition(Event.MODEL_SURPRISE, True)
    machine.set_condition(Event.PLANNER_DEGRADED, False)
    assert machine.mode is Mode.SLOW
    machine.set_condition(Event.MODEL_SURPRISE, False)
    assert machine.mode is Mode.RUN
    assert machine.reason == Event.ALL_CLEAR
