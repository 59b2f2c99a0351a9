"""How the number of sessions that an org accepts is found, and how its limits are kept."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from airflow_provider_agentforce.client.concurrency_limiter import ConcurrencyLimiter
from airflow_provider_agentforce.exceptions import RateLimitedError


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limiter(clock):
    return ConcurrencyLimiter(clock)


def slots_of(limiter, most=50, per_hour=10**9):
    """Take slots as long as there are any."""
    slots = []
    with suppress(RateLimitedError):
        while True:
            slots.append(limiter.acquire(most_open=most, most_per_hour=per_hour))
    return slots


def round_of(limiter, allows, clock, most=50):
    """Start a session with each slot that there is, at an org that allows so many; then end them all."""
    slots = slots_of(limiter, most)
    for number, slot in enumerate(slots):
        if number < allows:
            limiter.started(slot, f"session-{number}")
        else:
            limiter.refused(slot, None)
    for number in range(allows):
        limiter.ended(f"session-{number}")
    clock.now += 0.001
    return min(allows, len(slots)), max(0, len(slots) - allows)


def test_a_limit_that_is_right_is_never_left(limiter, clock):
    assert {round_of(limiter, 50, clock) for _ in range(100)} == {(50, 0)}


def test_a_limit_that_is_too_high_comes_down_to_the_orgs_and_stays_there(limiter, clock):
    first = [round_of(limiter, 20, clock) for _ in range(10)]
    assert sum(refused for _, refused in first) <= 30 + 10
    later = [round_of(limiter, 20, clock) for _ in range(200)]
    started = sum(started for started, _ in later)
    assert started >= 0.97 * 200 * 20
    assert sum(refused for _, refused in later) <= 0.01 * started


def test_an_org_that_allows_more_again_is_used(limiter, clock):
    for _ in range(20):
        round_of(limiter, 10, clock)
    for _ in range(2000):
        round_of(limiter, 50, clock)
    assert limiter.limit(50) == 50


def test_refusals_of_one_round_count_once(limiter):
    for slot in slots_of(limiter, 40):
        limiter.refused(slot, None)
    assert (limiter.limit(40), limiter.refusals) == (20, 40)


def test_a_refusal_while_other_starts_are_under_way_takes_one_place_only(limiter):
    for slot in slots_of(limiter)[:3]:
        limiter.refused(slot, None)
    assert limiter.limit(50) == 47


def test_clients_that_are_set_differently_keep_their_own_limits(limiter):
    few, many = slots_of(limiter, 3), slots_of(limiter, 8)
    assert (len(few), len(many)) == (3, 5)
    assert slots_of(limiter, 3) == []
    for slot in (*few, *many):
        limiter.release(slot)
    assert len(slots_of(limiter, 8)) == 8


def test_a_pause_that_was_a_guess_ends_with_the_first_start_and_one_that_the_org_asked_for_does_not(
    limiter, clock
):
    first, second, third = slots_of(limiter, 3)
    limiter.refused(first, None)
    assert limiter.paused_for(1000) > 0
    limiter.started(second, "a")
    assert limiter.paused_for(1000) == 0
    limiter.refused(third, 30)
    assert limiter.paused_for(1000) == 30
    with pytest.raises(RateLimitedError) as caught:
        limiter.acquire(most_open=9, most_per_hour=1000)
    assert caught.value.retry_after == 30
    clock.now += 30
    limiter.ended("a")
    assert limiter.acquire(most_open=9, most_per_hour=1000)


def test_a_caller_that_wants_few_slots_is_slowed_down_by_its_own_measure(limiter):
    slots = [limiter.acquire(most_open=50, most_per_hour=1000, wanted=4) for _ in range(4)]
    limiter.refused(slots[0], None)
    assert limiter.limit(50) == 3


@pytest.mark.parametrize("asked", [3600.0, 9_999_999_999.0])
def test_no_pause_is_longer_than_a_minute_and_what_the_org_asked_for_is_known(limiter, asked):
    limiter.refused(*slots_of(limiter, 1), asked)
    assert limiter.paused_for(1000) == 60
    assert limiter.asked_for == min(asked, 7200)
    assert limiter.limit(1) == 1


def test_pauses_grow_while_nothing_is_allowed_and_end_with_the_first_start(limiter, clock):
    limiter.longest_pause = 3.0
    pauses = []
    for _ in range(4):
        limiter.refused(*slots_of(limiter, 1), None)
        pauses.append(limiter.paused_for(1000))
        clock.now += pauses[-1]
    assert pauses == [1, 2, 3, 3]
    assert limiter.refused_for == sum(pauses)
    limiter.started(*slots_of(limiter, 1), "a")
    assert limiter.refused_for == 0


def test_an_hour_holds_what_was_started_here_and_elsewhere_and_not_what_the_org_refused(limiter, clock):
    limiter.recall([3599, 10])
    first, second = slots_of(limiter, per_hour=4)
    limiter.refused(first, None)
    limiter.started(second, "a")
    assert len(slots_of(limiter, per_hour=4)) == 1
    with pytest.raises(RateLimitedError, match="4 sessions were started within an hour") as caught:
        limiter.acquire(most_open=50, most_per_hour=4)
    assert caught.value.retry_after == pytest.approx(1)
    clock.now += 1
    assert len(slots_of(limiter, per_hour=4)) == 1


def test_a_slot_that_comes_free_goes_to_who_waits():
    limiter = ConcurrencyLimiter()
    limiter.started(limiter.acquire(most_open=1, most_per_hour=9), "a")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(limiter.acquire, most_open=1, most_per_hour=9, wait=30)
        limiter.ended("a")
        assert waiting.result(30).session_id is None


def test_a_wait_that_any_call_is_asked_for_holds_for_all_starts(limiter, clock):
    limiter.started(limiter.acquire(most_open=50, most_per_hour=1000), "one")
    limiter.throttled(None)
    assert limiter.paused_for(1000) == 0
    limiter.throttled(20.0)
    limiter.throttled(5.0)
    assert (limiter.paused_for(1000), limiter.open_sessions) == (20.0, 1)
    clock.now += 20.0
    limiter.acquire(most_open=50, most_per_hour=1000)
