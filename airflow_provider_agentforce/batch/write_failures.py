"""The records that could not be written: their lines for the error file, and the reasons."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from typing_extensions import Self

from airflow_provider_agentforce.batch.record_values import ENCODER, WriteFailure
from airflow_provider_agentforce.exceptions import one_line

_SHOWN_REASONS = 3
_IN_MEMORY = 1024 * 1024


class WriteFailures:
    """Collects failures. Their values may be long texts, so many of them are kept in a temporary file.

    Close it, or use it as a context manager.

    :ivar count: how many there are.
    :ivar locked: how many of them another process had locked.
    """

    def __init__(self) -> None:
        self.count = 0
        self.locked = 0
        self._reasons: Counter[str] = Counter()
        self._first: dict[str, Any] = {}
        self._lines = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the temporary file."""
        self._lines.close()

    def add(self, failure: WriteFailure, *, locked: bool = False) -> None:
        """Add a failure."""
        self.count += 1
        self.locked += locked
        reason = one_line(failure.error, 160).rstrip(".")
        self._reasons[reason] += 1
        self._first.setdefault(reason, failure.key)
        self._lines.write(ENCODER.encode(asdict(failure)).encode("utf-8", "replace") + b"\n")

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the error file."""
        self._lines.seek(0)
        yield from self._lines

    @property
    def reasons(self) -> str:
        """Why records failed, the most common reasons first, each with the key of one record."""
        shown = [
            f"{number} × {reason} (first: {one_line(str(self._first[reason]), 40)})"  # noqa: RUF001
            for reason, number in self._reasons.most_common(_SHOWN_REASONS)
        ]
        more = len(self._reasons) - len(shown)
        return "; ".join(shown + ([f"{more} other reasons"] if more else []))
