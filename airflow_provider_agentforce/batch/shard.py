"""The part of a batch for one of several tasks: its records, its folder, and its share of each limit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_agentforce.batch.stable_hash import stable_hash
from airflow_provider_agentforce.exceptions import AgentforceInputError, shown

_TEXT = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)
_FOLDER = re.compile(r"shard-(\d{1,6})-of-(\d{1,6})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """One part of a batch. A hash of its name assigns each record to one part.

    :param number: number of the shard, from 0.
    :param of: the number of shards.
    """

    number: int
    of: int

    @classmethod
    def read(cls, given: object) -> Shard:
        """Parse a text such as ``0/5``.

        :raises AgentforceInputError: if it is anything else.
        """
        match = _TEXT.fullmatch(given) if isinstance(given, str) else None
        shard = match and cls(int(match[1]), int(match[2]))
        if not shard or shard.number >= shard.of:
            raise AgentforceInputError(
                f"shard must be one of shards(n), such as '0/5', but is {shown(given)}. Map the task over "
                "them: .expand(shard=shards(5))."
            )
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def folder(self) -> str:
        """Name of its folder inside that of the batch."""
        return f"shard-{self.number}-of-{self.of}"

    @classmethod
    def of_folder(cls, name: str) -> Shard | None:
        """Return the shard whose folder has this *name*, ``None`` if it is another folder."""
        match = _FOLDER.fullmatch(name)
        return match and cls(int(match[1]), int(match[2]))

    def takes(self, name: str) -> bool:
        """Return whether the record of this *name* belongs to it, the same in every process and Python
        version.
        """
        return stable_hash(name, "shard") % self.of == self.number

    def share(self, limit: int, field: str) -> int:
        """Return its share of a limit; those of all shards add up to the limit.

        :param field: name of the limit, for errors.
        :raises AgentforceInputError: if there are more shards than the limit allows sessions.
        """
        if limit < self.of:
            raise AgentforceInputError(
                f"shard: {field} is {limit}, so {self.of} shards cannot each have a session. Use "
                f"shards({limit}) or fewer, or raise {field} if the org allows more."
            )
        return limit // self.of + (self.number < limit % self.of)
