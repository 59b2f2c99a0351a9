"""Runs the steps of ``on_unknown_delivery`` for messages of which it is not known whether the agent acted.

Where it is stands in a record after each step and before each wait, and each verdict does before anything
follows from it. So whatever is killed, the next try goes on from there: it sends nothing, and asks no person
twice.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from airflow_provider_agentforce.delivery import FAIL, Ask, Check, Step, Trace, UnknownDelivery, Verdict
from airflow_provider_agentforce.exceptions import AgentforceError, one_line
from airflow_provider_agentforce.operators._question import Decision, Question

log = logging.getLogger(__name__)


class Home(Protocol):
    """Where the messages and what became known of them are recorded."""

    def open(self) -> dict[str, UnknownDelivery]:
        """Return the messages that are still unknown, by a name of each."""

    def was_received(self, name: str) -> bool:
        """Tell whether the org is known to have received a message, so that only its answer is lost."""

    def read(self) -> dict[str, Any] | None:
        """Return what :meth:`write` wrote about these messages, ``None`` if nothing was."""

    def write(self, progress: dict[str, Any]) -> None:
        """Keep how far the steps have come. Raises if it cannot."""

    def settle(self, verdicts: Mapping[str, Verdict]) -> None:
        """Record verdicts, durably when this returns. Raises if it cannot."""


class Tools(Protocol):
    """What the steps need of the task that they run in."""

    def wait_until(self, moment: datetime) -> None:
        """Wait; where the task can give its slot back, this does not return."""

    def look_up(self, deliveries: Mapping[str, UnknownDelivery]) -> dict[str, Seen]:
        """Look messages up in the org's trace, once."""

    def wait_for_trace(
        self, deliveries: Mapping[str, UnknownDelivery], until: datetime, end: datetime
    ) -> None:
        """Wait to look again; as :meth:`wait_until`.

        :param until: when a look is due.
        :param end: when the last one is.
        """

    def ask(self, step: Ask, question: Question, until: datetime | None) -> Decision | None:
        """Return a person's decision, ``None`` if none comes in time; waits as :meth:`wait_until`."""


@dataclass(frozen=True)
class Seen:
    """What the org's trace shows of a message.

    :param found: whether it is there.
    :param answer: of the agent, when the whole of it is there, too.
    :param note: what was seen, or why nothing.
    :param final: another look would show the same.
    """

    found: bool = False
    answer: str | None = None
    note: str = ""
    final: bool = False


@dataclass
class ResolverState:
    """How far the steps have come.

    :ivar step: the step that is taken.
    :ivar since: when it began, ISO 8601.
    :ivar looks: how often the trace was looked at.
    :ivar findings: what the steps saw, by the name of the message.
    """

    step: int = 0
    since: str | None = None
    looks: int = 0
    findings: dict[str, list[str]] = field(default_factory=dict)

    def next_step(self) -> None:
        """Go to the next step."""
        self.step, self.since, self.looks = self.step + 1, None, 0


class Resolver:
    """Takes the steps in order until one settles it.

    :param steps: the last one is ``"fail"`` or ``"resend"``.
    """

    def __init__(self, steps: Sequence[Step], home: Home, tools: Tools) -> None:
        self._steps = steps
        self._home = home
        self._tools = tools
        self._state = ResolverState(**(home.read() or {}))

    @property
    def findings(self) -> dict[str, list[str]]:
        """What was seen of the messages that are still unknown."""
        return self._state.findings

    def run(self) -> Step | None:
        """Take the steps.

        :returns: ``None`` when all is settled; else the last step, ``"fail"`` or ``"resend"``.
        """
        while self._home.open():
            step = self._steps[self._state.step]
            if not isinstance(step, Check | Trace | Ask):
                return step
            if self._state.since is None:
                self._state.since = _now().isoformat()
                self._save()
            if not self._take(step):
                return FAIL
            self._state.next_step()
            if self._home.open():
                self._save()
        return None

    def _take(self, step: Check | Trace | Ask) -> bool:
        """Take a step, and tell whether the next one may follow: a person may say that none does."""
        if isinstance(step, Check):
            self._check(step)
        elif isinstance(step, Trace):
            self._trace(step)
        else:
            return self._ask(step)
        return True

    def _check(self, step: Check) -> None:
        unknown = self._home.open()
        sent = [delivery.sent_at for delivery in unknown.values() if delivery.sent_at is not None]
        if sent:
            self._tools.wait_until(max(sent) + step.after)
        verdicts = {}
        for name, delivery in unknown.items():
            said, finding = _called(step.function, self._with_findings(name, delivery))
            if said is False and self._home.was_received(name):
                said, finding = None, "A check says that the agent did not act, but the org has the message."
                log.warning("%s It is not sent again.", finding)
            if said is None:
                self._note(name, finding)
            else:
                verdicts[name] = Verdict("check", said, answer="lost" if said else None)
        self._settle(verdicts)

    def _trace(self, step: Trace) -> None:
        end = self._began() + step.timeout
        wanted = self._home.open()
        while wanted:
            over = _now() >= end
            seen = self._tools.look_up(wanted)
            self._settle({name: one for name in wanted if (one := _verdict_of(seen[name], last=over))})
            still = self._home.open()
            for name in wanted:
                if name in still and (over or seen[name].final):
                    self._note(name, f"Trace: {seen[name].note}")
            wanted = {name: still[name] for name in wanted if name in still and not seen[name].final}
            if over or not wanted:
                return
            pause = self._pause(step.timeout)
            self._state.looks += 1
            self._save()
            self._tools.wait_for_trace(wanted, min(_now() + pause, end), end)

    def _pause(self, timeout: timedelta) -> timedelta:
        from airflow_provider_agentforce.client import trace_lookup  # noqa: PLC0415 - not at parse time

        pause = trace_lookup.first_pause(timeout.total_seconds())
        for _ in range(self._state.looks):
            pause = trace_lookup.next_pause(pause)
        return timedelta(seconds=pause)

    def _ask(self, step: Ask) -> bool:
        unknown = {name: self._with_findings(name, one) for name, one in self._home.open().items()}
        may_send = not any(self._home.was_received(name) for name in unknown)
        question = Question.about(list(unknown.values()), may_send=may_send)
        until = None if step.timeout is None else self._began() + step.timeout
        decision = self._tools.ask(step, question, until)
        if decision is None:
            self._note_all(unknown, "No person answered in time.")
            return True
        who = decision.user or "Somebody"
        log.info("%s has decided: %s", who, decision.option)
        if decision.acted is None:
            self._note_all(unknown, f"{who} has decided to fail the task.")
            return False
        self._settle(dict.fromkeys(unknown, _verdict_by(decision)))
        return True

    def _note_all(self, names: Iterable[str], note: str) -> None:
        for name in names:
            self._note(name, note)

    def _began(self) -> datetime:
        assert self._state.since is not None  # noqa: S101 - the step has begun
        return datetime.fromisoformat(self._state.since)

    def _settle(self, verdicts: Mapping[str, Verdict]) -> None:
        if not verdicts:
            return
        self._home.settle(verdicts)
        for name in verdicts:
            self._state.findings.pop(name, None)
        kinds = Counter((one.by, one.acted, one.answer) for one in verdicts.values())
        for (by, acted, answer), number in kinds.items():
            log.log(
                logging.WARNING if answer == "lost" else logging.INFO,
                "By %s it is known that the agent %s%s. Messages: %d.",
                by,
                "acted" if acted else "did not act",
                f", and the answer is {answer}" if answer else "",
                number,
            )

    def _note(self, name: str, finding: str) -> None:
        self._state.findings.setdefault(name, []).append(finding)

    def _with_findings(self, name: str, delivery: UnknownDelivery) -> UnknownDelivery:
        return delivery.found(*self._state.findings.get(name, ()))

    def _save(self) -> None:
        self._home.write(vars(self._state))


def _verdict_by(decision: Decision) -> Verdict:
    if not decision.acted:
        return Verdict("ask", acted=False, user=decision.user)
    answer = decision.answer
    return Verdict("ask", acted=True, text=answer, answer="given" if answer else "lost", user=decision.user)


def _verdict_of(seen: Seen, *, last: bool) -> Verdict | None:
    """Return what a look at the trace proves; only the *last* look is final about an answer."""
    if not seen.found or (seen.answer is None and not (last or seen.final)):
        return None
    if seen.answer is None:
        return Verdict("trace", acted=True, answer="lost", note=seen.note)
    return Verdict("trace", acted=True, text=seen.answer, answer="recovered", note=seen.note)


def _called(function: Callable[[UnknownDelivery], Any], delivery: UnknownDelivery) -> tuple[bool | None, str]:
    """Ask a check function; return what it says, and why that is nothing."""
    name = getattr(function, "__name__", type(function).__name__)
    try:
        said = function(delivery)
    except Exception as error:  # noqa: BLE001 - a person's code
        reason = error.what if isinstance(error, AgentforceError) else str(error)
        finding = f"The check {name} failed: {one_line(f'{type(error).__name__}: {reason}').rstrip('.')}."
        log.warning("%s", finding)
        return None, finding
    if said is None or isinstance(said, bool):
        return said, f"The check {name} cannot tell."
    finding = f"The check {name} returned {one_line(repr(said), 40)}, and not True, False or None."
    log.warning("%s", finding)
    return None, finding


def _now() -> datetime:
    return datetime.now(timezone.utc)
