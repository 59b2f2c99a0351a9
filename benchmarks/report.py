"""One measured figure beside its goal, and figures as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the report.

    :param what: what was measured, and against what.
    :param goal: the goal in words, ``""`` for a figure that is there to compare with.
    :param measured: the figure in words.
    :param reached: whether the goal is reached, ``None`` without a goal.
    """

    what: str
    goal: str
    measured: str
    reached: bool | None = None

    @property
    def verdict(self) -> str:
        """The last column."""
        return "" if self.reached is None else ("yes" if self.reached else "**no**")


def table(rows: Iterable[Row]) -> str:
    lines = ["| what | goal | measured | reached |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.goal} | {row.measured} | {row.verdict} |" for row in rows]
    return "\n".join(lines)
