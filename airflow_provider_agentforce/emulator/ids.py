"""Make ids that look like the real ones, so that code which checks their shape is really tested."""

from __future__ import annotations

import os
import time
import uuid

_ID_LENGTHS = (15, 18)
_CHECKSUM_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_BLOCK = 5


def new_uuid() -> str:
    """Return a random UUID (version 4) as text."""
    return str(uuid.uuid4())


def new_session_id() -> str:
    """Return a UUID of version 7: the time in ms first, as captured session ids have it."""
    raw = bytearray(int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return str(uuid.UUID(bytes=bytes(raw)))


def new_trace_id() -> str:
    """Return 32 hexadecimal digits."""
    return uuid.uuid4().hex


def salesforce_id(fifteen: str) -> str:
    """Return the 18-character form of a 15-character record id: the last three tell upper from lower case."""
    suffix = ""
    for start in range(0, 15, _BLOCK):
        block = fifteen[start : start + _BLOCK]
        bits = sum(1 << position for position, char in enumerate(block) if char.isupper())
        suffix += _CHECKSUM_ALPHABET[bits]
    return fifteen + suffix


def is_agent_id(value: str) -> bool:
    """Say whether ``value`` has the shape of a BotDefinition id: prefix ``0Xx``, 15 or 18 characters."""
    return value.startswith("0Xx") and len(value) in _ID_LENGTHS and value.isascii() and value.isalnum()
