"""A hash of a record's name that is the same in every process, machine and Python version."""

from __future__ import annotations

import hashlib


def stable_hash(name: str, purpose: str) -> int:
    """Return 64 bits.

    :param purpose: what the hash decides. Hashes for different purposes are independent.
    """
    key = hashlib.blake2b(purpose.encode(), digest_size=16).digest()
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
    return int.from_bytes(digest, "big")
