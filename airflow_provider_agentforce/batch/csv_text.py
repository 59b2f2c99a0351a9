"""Writes CSV as a stream of bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_BOM = "\ufeff"
_CHUNK = 65_536


def csv_bytes(rows: Iterable[Sequence[Any]], *, bom: bool = False) -> Iterator[bytes]:
    """Yield *rows* as CSV in UTF-8.

    :param bom: begin with a byte order mark.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    buffer.write(_BOM if bom else "")
    for row in rows:
        writer.writerow(row)
        if buffer.tell() > _CHUNK:
            yield buffer.getvalue().encode("utf-8")
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode("utf-8")
