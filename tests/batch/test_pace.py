"""How the number of sessions is found."""

from concurrent.futures import ThreadPoolExecutor

from airflow_provider_agentforce.batch.pace import Pace


class Org:
    """Allows so many sessions."""

    def __init__(self, allows):
        self.allows = allows
        self.open = 0
        self.refusals = 0


def round_of(pace, org):
    """Have every worker that gets a place start a session, then end them all."""
    epochs = []
    while pace._entered < pace.limit:
        epochs.append(pace.enter())
    started = 0
    for epoch in epochs:
        if org.open < org.allows:
            org.open += 1
            started += 1
            pace.started()
        else:
            org.refusals += 1
            pace.refused(epoch, None)
    for _ in range(started):
        org.open -= 1
        pace.ended()
    for _ in epochs:
        pace.leave()
    return started


def test_a_limit_that_is_right_is_never_left():
    pace, org = Pace(50), Org(50)
    assert {round_of(pace, org) for _ in range(100)} == {50}
    assert org.refusals == 0


def test_a_limit_that_is_too_high_comes_down_to_the_orgs_and_stays_there():
    pace, org = Pace(50), Org(20)
    for _ in range(10):
        round_of(pace, org)
    before = org.refusals
    assert before <= 30 + 10
    done = [round_of(pace, org) for _ in range(200)]
    assert sum(done) >= 0.97 * 200 * 20
    assert org.refusals - before <= 0.01 * sum(done)


def test_an_org_that_allows_more_again_is_used():
    pace, org = Pace(50), Org(10)
    for _ in range(20):
        round_of(pace, org)
    org.allows = 50
    for _ in range(2000):
        round_of(pace, org)
    assert pace.limit == 50


def test_refusals_of_one_round_count_once():
    pace = Pace(40)
    epochs = [pace.enter() for _ in range(40)]
    for epoch in epochs:
        pace.refused(epoch, None)
    assert pace.limit == 20
    assert pace.refusals == 40


def test_a_refusal_while_other_starts_are_under_way_takes_one_place_only():
    pace = Pace(50)
    epochs = [pace.enter() for _ in range(50)]
    for epoch in epochs[:3]:
        pace.refused(epoch, None)
    assert pace.limit == 47
    for _ in epochs[:3]:
        pace.leave()
    assert pace.limit == 47


def test_a_pause_that_was_a_guess_ends_with_the_first_start_and_one_that_the_org_asked_for_does_not():
    pace = Pace(2)
    pace.refused(pace.enter(), None)
    pace.leave()
    assert pace.paused_for > 0
    pace.started()
    assert pace.paused_for == 0
    pace.refused(pace.enter(), 30)
    pace.started()
    assert pace.paused_for > 20


def test_there_is_always_one_place():
    pace = Pace(1)
    for _ in range(10):
        pace.refused(pace.enter(), 0)
        pace.leave()
        assert pace.limit == 1


def test_pauses_grow_while_nothing_is_allowed_and_end_with_the_first_start(monkeypatch):
    monkeypatch.setattr("airflow_provider_agentforce.batch.pace._LONGEST_PAUSE", 3.0)
    pace = Pace(1)
    epoch = pace.enter()
    pauses = []
    for _ in range(4):
        pace.refused(epoch, None)
        epoch += 1
        pauses.append(round(pace.paused_for))
        assert pace.refused_for >= 0
    assert pauses == [1, 2, 3, 3]
    pace.started()
    assert pace.refused_for == 0


def test_waiting_workers_go_when_it_stops():
    pace = Pace(1)
    pace.enter()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(pace.enter) for _ in range(3)]
        pace.stop()
        assert [one.result(5) for one in waiting] == [None] * 3


def test_a_pause_keeps_everybody_out_until_it_ends():
    pace = Pace(2)
    pace.hold(0.3)
    pace.hold(0.1)
    assert 0.2 < pace.paused_for <= 0.3
    assert pace.enter() == 0
    assert pace.paused_for == 0
