"""The findings of a connection check, as a checklist for people and for programs. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from airflow_provider_agentforce.exceptions import one_line

Status = Literal["ok", "failed", "warning", "skipped"]

OK: Status = "ok"
FAILED: Status = "failed"
WARNING: Status = "warning"
SKIPPED: Status = "skipped"

_MARKS = {OK: "✓", FAILED: "✗", WARNING: "!", SKIPPED: "-"}
_LONGEST = 600


@dataclass(frozen=True)
class ConnectionCheck:
    """One line of the list.

    :param name: the subject of the check: ``settings``, ``host``, ``TLS``, ``secret`` or ``key``, ``token``,
        ``scopes``, ``API host``, ``agent``, ``active``, ``start``, ``limits``.
    :param status: ``ok``; ``failed``: tasks will fail; ``warning``: tasks may fail; ``skipped``: not checked.
    :param fact: the finding, a sentence.
    :param remedy: what to do, a sentence, or ``""``.
    :param setup: the page of Salesforce for it, such as ``Setup > My Domain``, or ``""``.
    """

    name: str
    status: Status
    fact: str
    remedy: str = ""
    setup: str = ""

    def __str__(self) -> str:
        """Return the line."""
        is_named = self.setup in self.remedy
        where = f"In Salesforce: {self.setup}." if self.setup and not is_named else ""
        parts = (f"{_MARKS[self.status]} {self.name}: {self.fact}", self.remedy, where)
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Diagnosis:
    """All checks of a connection, in the order in which a call depends on them."""

    checks: tuple[ConnectionCheck, ...]

    @property
    def good(self) -> bool:
        """Whether no check failed."""
        return all(check.status != FAILED for check in self.checks)

    def __str__(self) -> str:
        """Return a line for each check, in plain words."""
        return "\n".join(map(str, self.checks))

    def to_dict(self) -> dict[str, Any]:
        """Return ``good`` and ``checks``, each check a dict of its fields."""
        return {"good": self.good, "checks": [asdict(check) for check in self.checks]}

    def redacted(self, redact: Callable[[str], str]) -> Diagnosis:
        """Return it with *redact* applied to the facts, which may quote the org, each a printable line."""
        facts = (one_line(redact(check.fact), _LONGEST) for check in self.checks)
        return Diagnosis(
            tuple(replace(check, fact=fact) for check, fact in zip(self.checks, facts, strict=True))
        )
