"""Writes CSV as a stream of bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_BOM = "\ufeff"
_CHUNK = 65_536


def csv_bytes(
    rows: Iterable[Sequence[Any]], *, quote_texts: bool = False, bom: bool = False
) -> Iterator[bytes]:
    """Yield *rows* as CSV in UTF-8.

    :param quote_texts: put every text in quotes, not only those that need them.
    :param bom: begin with a byte order mark.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC if quote_texts else csv.QUOTE_MINIMAL)
    buffer.write(_BOM if bom else "")
    for row in rows:
        writer.writerow(row)
        if buffer.tell() > _CHUNK:
            yield buffer.getvalue().encode("utf-8")
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode("utf-8")
