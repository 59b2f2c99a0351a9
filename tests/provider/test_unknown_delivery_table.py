"""What the agent did with a message whose reply is lost: steps, what it really did, its trace, and kills.

``nox`` runs this on every Airflow.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pytest
from stand_ins import KILLED, TaskInstance, chosen
from unknown_deliveries import (
    ACTED,
    DID_NOT_ACT,
    DONE,
    NOT_DONE,
    NOW,
    SOON,
    Org,
    batch_task,
    cannot_tell,
    sending,
    talking,
    time_is_up,
    until_decided,
    use_up,
)

from airflow_provider_agentforce._compat import AirflowFailException, can_ask, questions_change, waits
from airflow_provider_agentforce.delivery import Ask, Trace
from airflow_provider_agentforce.exceptions import BatchFailedError, DeliveryUnknownError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
LATE = {"trace_delay": 0.2}
ABSENT = {"session_tracing": "no_dataspace"}
# How long a step looks into which trace.
TRACES = {
    "there": (NOW, {}),
    "late": (Trace(timeout=timedelta(seconds=0.6)), LATE),
    "partial": (Trace(timeout=timedelta(seconds=0.3)), LATE),
    "absent": (NOW, ABSENT),
}
# What the steps are before their last one, and the traces that make a difference.
STEPS = {
    "check": ["absent"],
    "ask": ["absent"],
    "trace": [*TRACES],
    "nothing, trace, check": [*TRACES],
    "trace, ask": [*TRACES],
    "nothing, resend": ["absent"],
}
KINDS = {"talk": TRACES, "send": ("there", "absent"), "batch": ("there", "absent")}
TRUTHS = {"acted": ACTED, "did not act": DID_NOT_ACT}


def differs(steps, trace, truth):
    """Tell whether a row is not the same as another: what never arrived is in no trace, however late."""
    return truth == "acted" or trace in ("there", "absent") or (steps, trace) == ("trace", "late")


ROWS = [
    (kind, steps, trace, truth)
    for steps, traces in STEPS.items()
    for trace in traces
    for kind, its_traces in KINDS.items()
    for truth in TRUTHS
    if trace in its_traces and differs(steps, trace, truth)
]
# A try is killed at every second of its records, and at every fourth in a batch, which has many. The rows in
# which the agent acted begin one record later than the others, so that together they meet every record.
PACE = {"talk": 2, "send": 2, "batch": 4}
needs_people = pytest.mark.skipif(not can_ask(), reason="Airflow has no task that waits for a person")


class Notifier:
    """Writes down its calls, also those of tries that are processes."""

    def __init__(self, folder):
        self._file = folder / "notified"

    def __call__(self, _context):
        with self._file.open("a") as file:
            file.write("called\n")

    @property
    def calls(self):
        return len(self._file.read_text().splitlines()) if self._file.exists() else 0


def row_of(folder):
    (line,) = (folder / "results" / "results.jsonl").read_text().splitlines()
    return json.loads(line)


@dataclass
class History:
    """One message, and its task up to the end."""

    org: object
    kind: str
    steps: str
    trace: str
    folder: object
    actions: object

    def __post_init__(self):
        self.folder /= uuid.uuid4().hex
        self.folder.mkdir()
        self.text = f"change {uuid.uuid4()}"
        self.crm, self.notifier = Org(self.org), Notifier(self.folder)
        found = {
            "check": self.crm.looks,
            "nothing": cannot_tell,
            "trace": TRACES[self.trace][0],
            "ask": Ask(notifiers=[self.notifier]),
            "resend": "resend",
        }
        steps = [found[name] for name in self.steps.split(", ")]
        self.task = {"send": self.sends, "talk": self.talks, "batch": self.asks}[self.kind](steps)

    def sends(self, steps):
        return sending(self.org, steps, self.text)

    def talks(self, steps):
        return talking(self.org, steps, self.text)

    def asks(self, steps):
        more = {"records": [{"id": "A0"}], "message": self.text}
        return batch_task(self.folder, steps, **more)

    def is_killed(self, kill_at):
        """Run a try that is killed, and tell whether it got as far as that.

        :param kill_at: after so many records, or ``asked``: once a person is asked, which is not on record.
        """
        if kill_at == "asked":
            self.actions.then = lambda: os._exit(KILLED)
        elif self.kind != "batch":
            self.task.store.ends_at = kill_at
        killed = self.task.is_killed(lambda: self.end_at(kill_at))
        self.task.store.ends_at = None
        if self.actions is not None:
            self.actions.then = None
        return killed

    def end_at(self, number):
        """Have this process end at the *number*-th file that it writes in its folder."""
        if self.kind != "batch" or number == "asked":
            return
        left = iter(range(number - 1))

        def written(event, args):
            writes = event == "os.rename" or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR))
            if writes and str(self.folder) in str(args[0]) and next(left, None) is None:
                os._exit(KILLED)

        sys.addaudithook(written)

    def ends(self):
        """Run tries until the task ends, as Airflow does; return the outcome, ``None`` if it fails."""
        while (error := self.try_once()) is not None:
            if isinstance(error, AirflowFailException):
                return None
        return self.outcome

    def try_once(self):
        """Run a try, and return the error that it ends with."""
        try:
            result = until_decided(self.task, self.actions, self.choice)
        except (DeliveryUnknownError, BatchFailedError) as error:
            return error
        self.outcome = (row_of(self.folder) if self.kind == "batch" else result)["outcome"]
        return None

    def choice(self):
        return DONE if self.did() else NOT_DONE

    def did(self):
        return self.crm.actions(self.text)

    def check(self, outcome, truth, kill_at):
        """Check what the agent did."""
        where = f"killed at {kill_at}: {outcome}"
        if "resend" in self.steps:
            assert (outcome, self.did() >= 1) == ("answered", True), where
            assert kill_at is not None or self.did() == (2 if truth is ACTED else 1), where
        elif outcome is None:
            # Nothing but a person or a function proves that the agent did not act.
            assert (self.steps, self.did() == 0 or self.trace == "absent") == ("trace", True), where
            assert self.did() <= 1, where
        else:
            assert (outcome in ("answered", "answer_lost"), self.did()) == (True, 1), where
        if "ask" in self.steps:
            assert len(self.actions.asked) <= 1, where
            assert self.notifier.calls == len(self.actions.asked), where


@pytest.fixture
def people(request, task_folder):
    """The Required Actions, where this Airflow has them."""
    return request.getfixturevalue("actions") if can_ask() else None


@pytest.mark.skipif(not questions_change(), reason="a question does not end with its try")
class TestQuestionOfAnEarlierTry:
    """From Airflow 3.4 on, it ends with its try, and a trigger can read the answer to it."""

    @pytest.fixture
    def task(self, make_org, monkeypatch, people):
        org = make_org()
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
        org.fail("send", **ACTED)
        self.org = org
        return talking(org, Ask(timeout=timedelta(hours=1)), "one", messages=["one", "two"])

    def wait_of(self, go):
        with pytest.raises(waits()) as wait:
            go()
        return wait.value

    @pytest.mark.parametrize(
        "seen",
        [
            {"event": {"error": "The timeout has passed.", "error_type": "timeout"}},
            {"error": "Trigger failure"},
            {"error": "Trigger timeout"},
        ],
        ids=["no answer", "no question", "no triggerer"],
    )
    def test_without_an_answer_it_is_asked_once_more(self, task, people, seen):
        self.wait_of(task.run)
        look = self.wait_of(task.run)
        assert str(look.trigger.ti_id) == people.asked[0]["ti_id"]
        assert look.trigger.timeout_datetime <= datetime.now(timezone.utc)
        wait = self.wait_of(lambda: task.resume(look, **seen))
        first, second = people.asked
        assert (first["body"], first["ti_id"] == second["ti_id"]) == (second["body"], False)
        assert wait.timeout > timedelta(minutes=59)

    def test_an_answer_is_not_taken_for_that_to_the_next_question(self, task, people):
        wait = self.wait_of(task.run)
        self.org.fail("send", **ACTED)
        # The next question is recorded, and does not yet replace the first.
        people.before = lambda: os._exit(KILLED)
        assert task.is_killed(again=lambda: task.resume(wait, chosen(DONE, answer="first")))
        people.before = None
        wait = self.wait_of(task.run)
        assert "    two\n" in people.asked[-1]["body"]
        result = task.resume(wait, chosen(DONE, answer="second"))
        assert [turn["text"] for turn in result["turns"]] == ["first", "second"]


def too_late(_given):
    signal.raise_signal(signal.SIGUSR1)


@pytest.mark.parametrize("task_of", [sending, talking])
@pytest.mark.parametrize("last", ["fail", "resend"])
@pytest.mark.parametrize(
    "step", [too_late, Trace(timedelta(0), outcome_of=too_late), Trace(timedelta(seconds=30)), "killed"]
)
def test_without_a_record_no_try_follows_that_would_send_it_again(
    make_org, monkeypatch, task_folder, task_of, step, last
):
    """Stop a try while a step runs, below Airflow 3.3."""
    org = make_org()
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
    operators = []

    def is_killed(_delivery):
        operators[0].on_kill()

    task = task_of(org, [is_killed, SOON, last] if step == "killed" else [step, last])
    org.fail("send", **ACTED)
    if step == Trace(timedelta(seconds=30)):
        org.fail("session_trace", delay=2)
        threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    operators.append(task.kind(task_id="task", **task.arguments))
    with time_is_up(), pytest.raises(BaseException) as caught:  # noqa: PT011 - what Airflow sees of it
        operators[0].execute({"ti": TaskInstance(1, 3)})
    assert isinstance(caught.value, AirflowFailException) == (last == "fail")
    if last == "fail":
        assert isinstance(caught.value, DeliveryUnknownError)
        assert "stopped during the steps" in str(caught.value)
    assert org.count("send") == 1


@pytest.fixture(scope="module")
def unsent():
    """For each kind, the last record that is made before the message leaves. No step follows those before."""
    return {}


@pytest.mark.parametrize(
    ("kind", "steps", "trace", "truth"),
    [pytest.param(*row, marks=[needs_people] if "ask" in row[1] else [], id=" ".join(row)) for row in ROWS],
)
def test_wherever_a_try_is_killed_the_agent_acts_once_or_not_at_all(
    make_org, monkeypatch, tmp_path, people, unsent, kind, truth, steps, trace
):
    """Kill a try at its records, then let the next ones continue."""
    org = make_org(**TRACES[trace][1])
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())

    def is_killed(kill_at):
        if people is not None:
            people.forget()
        history = History(org, kind, steps, trace, tmp_path, people)
        org.fail("send", **TRUTHS[truth])
        killed = kill_at is not None and history.is_killed(kill_at)
        if killed and org.unused_faults():
            unsent[kind] = kill_at
            use_up(org)  # the message had not left
        history.check(history.ends(), TRUTHS[truth], kill_at)
        return killed

    is_killed(None)
    if not (can_ask() or kind == "batch"):
        return  # Without a record, a killed try must have no other: retries=0.
    numbers = itertools.count(unsent.get(kind, 1) + (truth == "acted"), PACE[kind])
    assert is_killed(next(numbers))
    while is_killed(next(numbers)):
        pass
    if people is not None and people.asked:
        assert is_killed("asked")
