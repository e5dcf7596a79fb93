"""The circuit breaker: its transitions, one trial at a time, slow start, and what does not open it."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mongars.inference.endpoints.breaker import (
    CONSECUTIVE_FAILURES,
    INITIAL_OPEN_SECONDS,
    LEASE_SECONDS,
    MAX_OPEN_SECONDS,
    NEVER,
    SLOW_START_FROM,
    SLOW_START_SECONDS,
    TRANSITIONS,
    Breaker,
)


def breaker(jitter: float = 1.0) -> Breaker:
    return Breaker(random=lambda: jitter)


def opened(at: float = 0.0) -> Breaker:
    found = breaker()
    assert found.record_failure("r", at, at, decisive=True)
    return found


def test_the_table_has_every_way_and_no_other() -> None:
    assert TRANSITIONS == {
        ("closed", "tripped"): "open",
        ("open", "trial_started"): "half_open",
        ("open", "restored"): "closed",
        ("half_open", "trial_succeeded"): "closed",
        ("half_open", "trial_failed"): "open",
        ("half_open", "trial_lost"): "open",
    }


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not_let_them() -> None:
    found = breaker()
    for number in range(CONSECUTIVE_FAILURES - 1):
        assert not found.record_failure("r", number, number, decisive=False)
    assert found.record_failure("r", 10.0, 10.0, decisive=False)
    assert found.available_at(10.0) == NEVER


def test_half_of_the_requests_failing_opens_it() -> None:
    found = breaker()
    for number in range(2):
        found.record_completed(number)
        assert not found.record_failure("r", number, number, decisive=False)
    assert found.record_failure("r", 3.0, 3.0, decisive=False), "three of five"


def test_old_failures_are_forgotten() -> None:
    found = breaker()
    for at in (0.0, 0.1, 0.2):
        found.record_failure("r", at, at, decisive=False)
    found.record_completed(1.0)
    assert not found.record_failure("r", 60.0, 60.0, decisive=False)


def test_it_stays_open_for_longer_each_time_and_half_of_that_is_random() -> None:
    for jitter, share in ((0.0, 0.5), (1.0, 1.0)):
        found, now, times = breaker(jitter), 0.0, []
        found.record_failure("r", now, now, decisive=True)
        for _ in range(5):
            times.append(found.seconds_to_trial(now))
            now += times[-1]
            found.start_trial("test", now)
            found.record_failure("test", now, now, decisive=True)
        assert times == [
            share * min(MAX_OPEN_SECONDS, INITIAL_OPEN_SECONDS * 2**n) for n in range(5)
        ]


def test_a_lost_test_makes_room_for_the_next_at_once() -> None:
    found = opened()
    found.start_trial("one", INITIAL_OPEN_SECONDS)
    assert found.available_at(INITIAL_OPEN_SECONDS) == NEVER
    found.release("somebody else")
    assert found.available_at(INITIAL_OPEN_SECONDS) == NEVER
    found.release("one")
    assert found.available_at(INITIAL_OPEN_SECONDS) <= INITIAL_OPEN_SECONDS


def test_a_lost_trial_does_not_block_the_breaker() -> None:
    found = opened()
    found.start_trial("vanished", INITIAL_OPEN_SECONDS)
    assert found.available_at(INITIAL_OPEN_SECONDS + LEASE_SECONDS) == NEVER
    assert found.available_at(INITIAL_OPEN_SECONDS + LEASE_SECONDS + 1) <= INITIAL_OPEN_SECONDS
    found.start_trial("next", INITIAL_OPEN_SECONDS + LEASE_SECONDS + 1)
    assert not found.record_failure(
        "vanished", 0.0, INITIAL_OPEN_SECONDS + LEASE_SECONDS + 2, decisive=True
    )
    assert found.state == "half_open", "a late word of the first does not end the second's test"


def test_it_comes_back_slowly() -> None:
    found = opened()
    found.start_trial("test", INITIAL_OPEN_SECONDS)
    found.record_first_token("test", INITIAL_OPEN_SECONDS)
    shares = [
        found.load_share(INITIAL_OPEN_SECONDS + part * SLOW_START_SECONDS)
        for part in (0, 0.5, 1, 2)
    ]
    assert shares[0] == SLOW_START_FROM
    assert shares == sorted(shares)
    assert shares[2:] == [1.0, 1.0]


def test_requests_from_before_it_opened_do_not_change_the_state() -> None:
    found = opened(at=5.0)
    found.record_first_token("early", 6.0)
    found.record_completed(6.0)
    assert not found.record_failure("early", 1.0, 6.0, decisive=True)
    assert found.seconds_to_trial(6.0) == INITIAL_OPEN_SECONDS - 1


class AnyOrder(RuleBasedStateMachine):
    """In any sequence of events, at most one trial request is in progress."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = breaker(0.5)
        self.now = 0.0
        self.out: dict[int, float] = {}
        self.tests: set[int] = set()
        self.number = 0

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.breaker.available_at(self.now) != NEVER:
            self.tests.clear()  # released, or its lease expired

    @rule()
    def send(self) -> None:
        if self.breaker.available_at(self.now) > self.now:
            return
        self.number += 1
        if self.breaker.state == "open":
            self.breaker.start_trial(self.number, self.now)
            self.tests.clear()
            self.tests.add(self.number)
        self.out[self.number] = self.now

    @rule(what=st.sampled_from(["began", "failed", "decisive", "left"]), pick=st.integers(0, 99))
    def hear(self, what: str, pick: int) -> None:
        if not self.out:
            return
        ticket = sorted(self.out)[pick % len(self.out)]
        was_test = ticket in self.tests
        if what == "began":
            self.breaker.record_first_token(ticket, self.now)
            self.breaker.record_completed(self.now)
        elif what != "left":
            decisive = what == "decisive"
            self.breaker.record_failure(ticket, self.out[ticket], self.now, decisive=decisive)
        self.breaker.release(ticket)
        self.tests.discard(ticket)
        del self.out[ticket]
        if was_test:
            assert self.breaker.state == {"began": "closed"}.get(what, "open")

    @invariant()
    def one_test_at_a_time(self) -> None:
        if self.breaker.state == "half_open":
            assert self.breaker.available_at(self.now) == NEVER
        assert 0 <= self.breaker.seconds_to_trial(self.now) <= MAX_OPEN_SECONDS
        assert SLOW_START_FROM <= self.breaker.load_share(self.now) <= 1


TestAnyOrder = AnyOrder.TestCase
