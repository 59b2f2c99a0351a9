"""Lets Python sleep under libfaketime, whose version 0.9.10 refuses the call that ``time.sleep`` makes.

Python imports it by its name at the start of a process that has this folder on its path.
"""

from __future__ import annotations

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep
