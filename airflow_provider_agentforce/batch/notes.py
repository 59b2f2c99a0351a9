"""Small JSON files beside the rows of a batch."""

from __future__ import annotations

import json
from typing import Any

from airflow_provider_agentforce.batch.parts import unreadable_file
from airflow_provider_agentforce.batch.storage import Storage, guarded


class Notes:
    """Reads and writes small JSON files as a whole, durably.

    Methods raise :class:`.LedgerError` if the store is not available, or a file has other contents.

    :param storage: storage of their folder.
    :param shown: the results folder as the user gave it.
    """

    def __init__(self, storage: Storage, shown: Any) -> None:
        self._storage = storage
        self._failure = f"The checkpoint of {shown} cannot be"

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the value, ``None`` if there is none."""
        body = guarded(lambda: self._storage.read(name), f"{self._failure} read")
        if body is None:
            return None
        try:
            value = json.loads(body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise unreadable_file(name)
        return value

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write a value, and replace the earlier one."""
        body = json.dumps(value).encode()
        guarded(lambda: self._storage.write(name, lambda: [body]), f"{self._failure} written")

    def remove(self, name: str) -> None:
        """Remove a value, if there is one."""
        guarded(lambda: self._storage.remove(name), f"{self._failure} cleared")
