"""Runs the steps of ``on_unknown_delivery`` for messages whose delivery is unknown.

Its state is recorded after each step and before each wait, and each verdict before anything depends on it.
After any kill, the next try continues from there: it sends nothing, and asks no person twice.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any, Protocol

from airflow_provider_agentforce._compat import INTERRUPTIONS, AirflowTaskTimeout
from airflow_provider_agentforce.client.models import ANSWER_LOST, OUTCOMES
from airflow_provider_agentforce.delivery import FAIL, Ask, Check, Step, Trace, UnknownDelivery, Verdict
from airflow_provider_agentforce.exceptions import AgentforceError, one_line
from airflow_provider_agentforce.operators._question import Decision, Question

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 300.0
_KEYS_A_LINE = 100
# Messages whose verdicts are recorded together: a kill loses no more, and their answers fit into memory.
_AT_ONCE = 100

_SEEN_BEFORE = (
    "The message was in the trace of its session, so it was delivered; its answer was not complete."
)
_TRACED = "The org's trace has the message by now, so the agent did act. It is not sent again."
# What outcome_of may return.
_ANSWER_OUTCOMES = tuple(outcome for outcome in OUTCOMES if outcome != ANSWER_LOST)


class DeliveryStore(Protocol):
    """Where the messages and their verdicts are recorded. Methods raise :class:`.LedgerError` if it fails."""

    def open(self) -> dict[str, UnknownDelivery]:
        """Return the messages that are still unknown, by name."""

    def was_received(self, name: str) -> bool:
        """Return whether the org is known to have received a message, so that only its answer is lost."""

    def received(self, names: Iterable[str]) -> None:
        """Record that the org has received messages, durably when this returns."""

    def read(self) -> dict[str, Any] | None:
        """Return what :meth:`write` wrote about these messages, ``None`` if there is nothing."""

    def write(self, progress: dict[str, Any]) -> None:
        """Store the state of the steps."""

    def settle(self, verdicts: Mapping[str, Verdict]) -> None:
        """Record verdicts, durably when this returns."""


class StepServices(Protocol):
    """The interface between the steps and their task."""

    @property
    def wants_json(self) -> bool:
        """Whether an answer must be JSON."""

    @property
    def results(self) -> str:
        """Where a batch writes its results; ``""`` for other tasks."""

    @property
    def woke_early(self) -> bool:
        """Whether the last wait ended before its time, without the event it waited for."""

    def redact(self, text: str) -> str:
        """Return *text* without the secrets of the connection."""

    def wait_until(self, moment: datetime, *, keeps_slot: bool = False) -> None:
        """Wait; if the task can free its slot, this does not return.

        :param keeps_slot: wait in the worker slot.
        """

    def look_up(self, deliveries: Mapping[str, UnknownDelivery]) -> dict[str, TraceLookup]:
        """Look messages up in the org's trace, once."""

    def wait_for_trace(
        self, deliveries: Mapping[str, UnknownDelivery], until: datetime, end: datetime
    ) -> None:
        """Wait before the next look; like :meth:`wait_until`.

        :param until: when a look is due.
        :param end: when the last one is.
        """

    def why_not_ask(self, question: Question) -> str:
        """Return why no person can be asked, ``""`` if one can."""

    def ask(self, step: Ask, question: Question, until: datetime | None) -> Decision | None:
        """Return a person's decision, ``None`` if there is none in time; waits like :meth:`wait_until`."""


@dataclass(frozen=True)
class TraceLookup:
    """What the org's trace shows about a message.

    :param found: whether the trace contains it.
    :param answer: the agent's answer, if it is complete.
    :param note: what was seen, or why nothing was.
    :param final: another look would show the same.
    :param for_all: the org refuses the traces of all sessions.
    """

    found: bool = False
    answer: str | None = None
    note: str = ""
    final: bool = False
    for_all: bool = False


@dataclass
class ResolverState:
    """The state of the steps.

    :ivar steps: their names; the state is that of these steps only.
    :ivar step: the current step.
    :ivar since: when it began, ISO 8601.
    :ivar looks: how often the trace was looked at.
    :ivar lost_waits: the number of its waits that ended early, without their event.
    :ivar checked: names of the messages that a check has seen; saved if the check used up the time of a try.
    :ivar outcome_hangs: whether ``outcome_of`` has used up the time of a try.
    :ivar traced: names of the messages that the trace has shown without their answers.
    :ivar findings: sentences about what the steps saw, by the name of the message.
    """

    steps: list[str]
    step: int = 0
    since: str | None = None
    looks: int = 0
    lost_waits: int = 0
    checked: list[str] = field(default_factory=list)
    outcome_hangs: bool = False
    traced: list[str] = field(default_factory=list)
    findings: dict[str, list[str]] = field(default_factory=dict)

    def next_step(self) -> None:
        """Go to the next step."""
        self.step, self.since, self.looks, self.lost_waits = self.step + 1, None, 0, 0
        self.checked, self.outcome_hangs = [], False


class Resolver:
    """Runs the steps in order until every message is resolved.

    :param steps: the last one is ``"fail"`` or ``"resend"``.
    :param store: where the messages and their verdicts are recorded.
    :param services: what the steps need from their task.
    :param shows: receives the state at the beginning and whenever it is recorded.
    :ivar refusal: says that a person has decided to fail the task; ``""`` if none has.
    """

    refusal = ""

    def __init__(
        self,
        steps: Sequence[Step],
        store: DeliveryStore,
        services: StepServices,
        shows: Callable[[ResolverState], None],
    ) -> None:
        self._shows = shows
        self._steps = steps
        self._store = store
        self._services = services
        names = [_name_of_step(step) for step in steps]
        progress = store.read() or {}
        # The Dag may change during a wait.
        same = progress.get("steps") == names
        self._state = ResolverState(**progress) if same else ResolverState(names)

    @property
    def findings(self) -> dict[str, list[str]]:
        """What was seen about the messages that are still unknown."""
        return self._state.findings

    def run(self) -> Step | None:
        """Run the steps.

        :returns: ``None`` if all are resolved; otherwise the last step, ``"fail"`` or ``"resend"``.
        """
        # The page of a new process does not have it yet.
        self._shows(self._state)
        if self._services.woke_early:
            self._wait_after_an_early_wake()
        while self._store.open():
            step = self._steps[self._state.step]
            if not isinstance(step, Check | Trace | Ask):
                return step
            if self._state.since is None:
                self._state.since = _now().isoformat()
                self._save()
            log.info("Step %d of on_unknown_delivery: %s.", self._state.step + 1, _name_of_step(step))
            if not self._take(step):
                return FAIL
            self._state.next_step()
            if self._store.open():
                self._save()
        return None

    def _take(self, step: Check | Trace | Ask) -> bool:
        """Run a step, and return whether the next one may follow: a person may decide that none does."""
        if isinstance(step, Check):
            self._check(step)
        elif isinstance(step, Trace):
            self._trace(step)
        else:
            return self._ask(step)
        return True

    def _wait_after_an_early_wake(self) -> None:
        """Wait in the worker slot, each time longer.

        Otherwise a trigger that fails at once would cause an endless loop.
        """
        step = self._steps[self._state.step]
        if self._state.since is None or not isinstance(step, Check | Trace | Ask):
            return
        end, moment = self._end_of(step), _now() + timedelta(seconds=_pause_after(self._state.lost_waits))
        self._state.lost_waits += 1
        self._save()
        until = moment if end is None else min(moment, end)
        if until > _now():
            log.warning(
                "The wait ended early. The next one begins at %s.", until.isoformat(timespec="seconds")
            )
            self._services.wait_until(until, keeps_slot=True)

    def _end_of(self, step: Check | Trace | Ask) -> datetime | None:
        """Return when the wait of a step ends, ``None`` for no limit."""
        if not isinstance(step, Check):
            return None if step.timeout is None else self._began() + step.timeout
        sent = [one.sent_at for one in self._store.open().values() if one.sent_at is not None]
        return max(sent) + step.after if sent else self._began()

    def _check(self, step: Check) -> None:
        unknown = self._store.open()
        if (end := self._end_of(step)) is not None:
            self._services.wait_until(end)
        seen = set(self._state.checked)
        names = iter([name for name in unknown if name not in seen])
        # Verdicts are recorded after each part, so a kill loses those of one part at most.
        while part := {name: unknown[name] for name in islice(names, _AT_ONCE)}:
            self._check_some(step, part)

    def _check_some(self, step: Check, unknown: Mapping[str, UnknownDelivery]) -> None:
        verdicts: dict[str, Verdict] = {}
        checked = self._state.checked
        try:
            for name, delivery in unknown.items():
                checked.append(name)
                said = self._run_check(step, name, delivery)
                if said is not None:
                    verdicts[name] = Verdict("check", said, answer="lost" if said else None)
        except AirflowTaskTimeout:
            self._settle(verdicts)
            self._skip_check(step, checked[-1])
            raise
        self._settle_unless_traced(verdicts)

    def _run_check(self, step: Check, name: str, delivery: UnknownDelivery) -> bool | None:
        said, finding = _call_check(step.function, self._with_findings(name, delivery), self._services.redact)
        if said is False and self._store.was_received(name):
            said, finding = None, "A check says that the agent did not act, but the org has the message."
            log.warning("%s It is not sent again.", finding)
        if said is None:
            self._note(name, finding)
        return said

    def _skip_check(self, step: Check, name: str) -> None:
        """Skip the check of a message in the next try, because it would use up its time, too."""
        finding = f"The check {_name_of(step.function)} did not end within the task's execution_timeout."
        log.warning("%s It is not called for this message again.", finding)
        if name in self._store.open():
            self._note(name, finding)
        self._save()

    def _trace(self, step: Trace) -> None:
        end = self._began() + step.timeout
        wanted = self._store.open()
        while wanted:
            over = _now() >= end
            wanted = self._look(step, wanted, over=over)
            if over or not wanted:
                return
            pause = self._pause(step.timeout)
            self._state.looks += 1
            self._save()
            self._services.wait_for_trace(wanted, min(_now() + pause, end), end)

    def _look(
        self, step: Trace, wanted: Mapping[str, UnknownDelivery], *, over: bool
    ) -> dict[str, UnknownDelivery]:
        """Look for each message once; return those for which another look is due."""
        left: dict[str, UnknownDelivery] = {}
        notes: Counter[str] = Counter()
        refused: TraceLookup | None = None
        names = iter(wanted)
        while part := {name: wanted[name] for name in islice(names, _AT_ONCE)}:
            looked = dict.fromkeys(part, refused) if refused else self._services.look_up(part)
            refused = next((one for one in looked.values() if one.for_all), None)
            seen = self._with_seen_before(looked)
            found = {name: said for name in part if (said := _verdict_of(seen[name], last=over))}
            self._settle_with_outcomes(step, found)
            unknown = self._store.open()
            still = {name: unknown[name] for name in part if name in unknown}
            notes.update(self._note_unseen({name: seen[name] for name in still}, over=over))
            left |= {name: one for name, one in still.items() if not seen[name].final}
        for note, number in notes.items():
            log.info("The org's trace does not show it: %s Messages: %d.", note, number)
        return left

    def _with_seen_before(self, seen: Mapping[str, TraceLookup]) -> dict[str, TraceLookup]:
        """Return *seen*, in which a message that the trace has shown before stays found."""
        before = set(self._state.traced)
        unanswered = [name for name, one in seen.items() if one.found and one.answer is None]
        if new := [name for name in unanswered if name not in before]:
            self._store.received(new)
            self._state.traced += new
        return {
            name: one if one.found or name not in before else replace(one, found=True, note=_SEEN_BEFORE)
            for name, one in seen.items()
        }

    def _note_unseen(self, seen: Mapping[str, TraceLookup], *, over: bool) -> list[str]:
        """Note what the trace has not settled and will not settle; return the notes."""
        unseen = {name: one.note for name, one in seen.items() if over or one.final}
        for name, note in unseen.items():
            self._note(name, f"Trace: {note}")
        return list(unseen.values())

    def _settle_with_outcomes(self, step: Trace, verdicts: Mapping[str, Verdict]) -> None:
        if self._state.outcome_hangs:
            self._settle(verdicts)
            return
        try:
            redact = self._services.redact
            known = {name: _with_outcome(step, verdict, redact) for name, verdict in verdicts.items()}
        except AirflowTaskTimeout:
            # Called again, it would use up the time of the next try, too.
            log.warning("outcome_of did not end within the task's execution_timeout.")
            self._settle(verdicts)
            self._state.outcome_hangs = True
            self._save()
            raise
        self._settle(known)

    def _pause(self, timeout: timedelta) -> timedelta:
        from airflow_provider_agentforce.client import trace_lookup  # noqa: PLC0415 - not at parse time

        pause = trace_lookup.first_pause(timeout.total_seconds())
        for _ in range(self._state.looks):
            pause = trace_lookup.next_pause(pause)
        return timedelta(seconds=pause)

    def _ask(self, step: Ask) -> bool:
        unknown = {name: self._with_findings(name, one) for name, one in self._store.open().items()}
        may_send = not any(self._store.was_received(name) for name in unknown)
        asked_about = list(unknown.values())
        question = Question.about(
            asked_about, may_send=may_send, as_json=self._services.wants_json, results=self._services.results
        )
        if why_not := self._services.why_not_ask(question):
            log.warning("%s", why_not)
            self._note_all(unknown, why_not)
            return True
        keys = [one_line(str(one.record_key), 80) for one in asked_about if one.record_key is not None]
        for number in range(0, len(keys), _KEYS_A_LINE):
            log.info("The question is about: %s", ", ".join(keys[number : number + _KEYS_A_LINE]))
        until = self._end_of(step)
        decision = self._services.ask(step, question, until)
        if decision is None:
            self._note_all(unknown, "No person answered in time.")
            return True
        who = decision.user or "Somebody"
        log.info("%s has decided: %s", who, decision.option)
        if decision.acted is None:
            self.refusal = f"{who} decided to fail the task."
            self._note_all(unknown, self.refusal)
            return False
        self._settle_unless_traced(dict.fromkeys(unknown, _verdict_by(decision)))
        return True

    def _settle_unless_traced(self, verdicts: Mapping[str, Verdict]) -> None:
        """Settle verdicts. Before a message is sent again, check the trace, if that is one of the steps.

        All are settled together, because a person's decision applies to all messages.
        """
        step = next((one for one in self._steps if isinstance(one, Trace)), None)
        if step is None:
            self._settle(verdicts)
            return
        traced = self._traced(name for name, said in verdicts.items() if said.acted is False)
        if traced:
            log.warning("%s Messages: %d.", _TRACED, len(traced))
        said = {**verdicts, **traced}
        self._settle_with_outcomes(step, {name: one for name, one in said.items() if one is not None})

    def _traced(self, names: Iterator[str]) -> dict[str, Verdict | None]:
        """Return the verdicts on messages in the trace; ``None`` if a later step waits for the answer."""
        waits = any(isinstance(one, Trace) for one in self._steps[self._state.step :])
        unknown = self._store.open()
        found: dict[str, Verdict | None] = {}
        while part := {name: unknown[name] for name in islice(names, _AT_ONCE)}:
            looked = self._services.look_up(part)
            seen = self._with_seen_before(looked).items()
            found |= {name: _verdict_of(one, last=not waits) for name, one in seen if one.found}
            if any(one.for_all for one in looked.values()):
                break
        return found

    def _note_all(self, names: Iterable[str], note: str) -> None:
        for name in names:
            self._note(name, note)

    def _began(self) -> datetime:
        assert self._state.since is not None  # noqa: S101 - the step has begun
        return datetime.fromisoformat(self._state.since)

    def _settle(self, verdicts: Mapping[str, Verdict]) -> None:
        if not verdicts:
            return
        self._store.settle(verdicts)
        for name in verdicts:
            self._state.findings.pop(name, None)
        kinds = Counter(_verdict_text(one) for one in verdicts.values())
        for (words, is_bad), number in kinds.items():
            log.log(logging.WARNING if is_bad else logging.INFO, "%s Messages: %d.", words, number)

    def _note(self, name: str, finding: str) -> None:
        self._state.findings.setdefault(name, []).append(finding)

    def _with_findings(self, name: str, delivery: UnknownDelivery) -> UnknownDelivery:
        # The author's function may change its argument.
        own = replace(delivery, request=deepcopy(delivery.request))
        return own.found(*self._state.findings.get(name, ()))

    def _save(self) -> None:
        self._store.write(vars(self._state))
        self._shows(self._state)


def _name_of_step(step: Step) -> str:
    return step if isinstance(step, str) else type(step).__name__.lower()


def _verdict_by(decision: Decision) -> Verdict:
    if not decision.acted:
        return Verdict("ask", acted=False, user=decision.user)
    answer = decision.answer
    return Verdict("ask", acted=True, text=answer, answer="given" if answer else "lost", user=decision.user)


def _verdict_of(seen: TraceLookup, *, last: bool) -> Verdict | None:
    """Return what a look at the trace proves; only the *last* look decides about an answer."""
    if not seen.found or (seen.answer is None and not (last or seen.final)):
        return None
    if seen.answer is None:
        return Verdict("trace", acted=True, answer="lost", note=seen.note)
    return Verdict("trace", acted=True, text=seen.answer, answer="recovered", note=seen.note)


def _with_outcome(step: Trace, verdict: Verdict, redact: Callable[[str], str]) -> Verdict:
    """Return the verdict with the outcome of its answer, if the author's function knows it."""
    if verdict.answer != "recovered" or step.outcome_of is None:
        return verdict
    said, trouble = _outcome(step.outcome_of, verdict.text, redact)
    if said is None:
        log.warning("%s", trouble)
        return replace(verdict, note=f"{verdict.note} {trouble}")
    return replace(verdict, outcome=said, note=f"The answer is in the org's trace; outcome_of says: {said}.")


def _outcome(
    function: Callable[[str], Any], text: str, redact: Callable[[str], str]
) -> tuple[str | None, str]:
    """Call ``outcome_of`` with an answer; return the outcome, and the reason if there is none."""
    name = _name_of(function)
    try:
        said = function(text)
        if isinstance(said, str) and said in _ANSWER_OUTCOMES:
            return said, ""
        return None, f"outcome_of, {name}, returned {one_line(repr(said), 40)}, which is not an outcome."
    except INTERRUPTIONS:
        raise
    except BaseException as error:  # noqa: BLE001 - the author's code
        return None, f"outcome_of, {name}, failed: {_error_text(error, redact)}."


def _verdict_text(verdict: Verdict) -> tuple[str, bool]:
    """Return the text of a verdict for the log, and whether it is a warning."""
    from airflow_provider_agentforce.client.trace_lookup import NO_KIND  # noqa: PLC0415 - not at parse time

    who = {"check": "Your check", "trace": "The org's trace", "ask": "A person"}[verdict.by]
    if not verdict.acted:
        return (
            f"{who} says that the agent did not act. The message is sent once more if that is possible.",
            False,
        )
    if verdict.answer == "lost":
        return f"{who} says that the agent acted. Its answer is lost: the outcome is answer_lost.", True
    if verdict.answer == "recovered" and verdict.outcome is None:
        look = "The outcome is still answered. Read the answer, or give Trace an outcome_of."
        return f"{who} has the message and the agent's answer. {NO_KIND} {look}", True
    return f"{who} says that the agent acted, and has its answer.", False


def _call_check(
    function: Callable[[UnknownDelivery], Any], delivery: UnknownDelivery, redact: Callable[[str], str]
) -> tuple[bool | None, str]:
    """Call a check function; return its result, and the reason if that is ``None``."""
    name = _name_of(function)
    try:
        said = function(delivery)
        if said is None:
            log.info("The check %s cannot tell.", name)
        if said is True or said is False or said is None:
            return said, f"The check {name} cannot tell."
        finding = f"The check {name} returned {one_line(repr(said), 40)}, which is not True, False or None."
    except INTERRUPTIONS:
        raise
    except BaseException as error:  # noqa: BLE001 - the author's code, which may even exit
        finding = f"The check {name} failed: {_error_text(error, redact)}."
    log.warning("%s", finding)
    return None, finding


def _name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _error_text(error: BaseException, redact: Callable[[str], str]) -> str:
    kind = type(error).__name__
    try:
        reason = error.what if isinstance(error, AgentforceError) else str(error)
    except Exception:  # noqa: BLE001 - __str__ may be the author's code, too
        reason = ""
    # Before it is shortened, which may leave a part of a secret.
    return one_line(redact(f"{kind}: {reason}") if reason else kind).rstrip(".")


def _pause_after(lost_waits: int) -> float:
    """Return the seconds before another wait begins."""
    return min(2.0**lost_waits, _LONGEST_PAUSE)


def _now() -> datetime:
    return datetime.now(timezone.utc)
