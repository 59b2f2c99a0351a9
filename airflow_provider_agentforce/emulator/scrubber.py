"""Keeps secrets, ids and names of users out of a recorded script, without I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import uuid
from collections.abc import Iterable
from typing import Any

from airflow_provider_agentforce.emulator.models import salesforce_id
from airflow_provider_agentforce.redaction import MASK, Redactor, layers, masked

# A shorter value is a word rather than a secret, and masking it would make the script useless.
_SHORTEST = 4
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# The prefix of a standard object begins with a digit, that of a custom one with `a`.
_RECORD_ID = re.compile(r"(?=[0-9A-Za-z]{0,14}\d)[0-9a][0-9A-Za-z]{14}(?:[A-Z0-5]{3})?")
_PRIVATE = re.compile(
    rf"""
    {_UUID.pattern}
    | (?<![0-9A-Za-z]){_RECORD_ID.pattern}(?:![\w.~+/=-]+)?(?![0-9A-Za-z])  # also as `00D…!token`
    | eyJ[\w-]{{5,}}(?:\.[\w-]+)*                                           # a JWT
    | (?<![\w.+'-])[\w.+'-]+@[\w-]+(?:\.[\w-]+)+                            # a user name or an email address
    | (?<![\w.-])[\w.-]+\.(?:salesforce|force|salesforce-(?:setup|sites))\.(?:com|mil)
    """,
    re.VERBOSE,
)
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")


class Scrubber:
    """Replaces what identifies an org or a person.

    Tokens, ids, user names, email addresses and the org's hosts are recognized by their form; the values
    given to
    :meth:`learn` are replaced, too, plain or encoded. Everything else that people wrote stays.
    """

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._redactor = Redactor()
        self._ids: dict[str, str] = {}

    def learn(self, values: Iterable[Any]) -> None:
        """Also replace these texts from now on."""
        new = {one for one in values if isinstance(one, str) and len(one) >= _SHORTEST} - self._secrets
        if new:
            self._secrets |= new
            self._redactor = Redactor(self._secrets)

    def text(self, text: str) -> str:
        """Return *text* with ``***`` instead of what identifies an org or a person."""
        hidden = bytearray(len(text))
        for layer, edges in layers(text):
            for begin, end in _private_parts(layer):
                hidden[edges[begin] : edges[end]] = b"\x01" * (edges[end] - edges[begin])
        return self._redactor.redact(masked(text, hidden))

    def value(self, value: Any) -> Any:
        """Return a JSON value with every text in it scrubbed; one that is an id becomes another id."""
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return self._id(value) or self.text(value) if isinstance(value, str) else value

    def _id(self, text: str) -> str | None:
        """Return the same made-up id for the same id, ``None`` for another text."""
        # A hash, because an id with a counter among zeros could be one that also occurs elsewhere.
        digits = hashlib.sha256(str(len(self._ids)).encode()).hexdigest()
        if _UUID.fullmatch(text):
            return self._ids.setdefault(text, str(uuid.UUID(digits[:32], version=4)))
        if _RECORD_ID.fullmatch(text) and not text.isdigit():
            return self._ids.setdefault(text, salesforce_id(f"{text[:3]}{digits[:12]}"))
        return None

    def is_clean(self, text: str) -> bool:
        """Return whether *text* has no part of what was learned."""
        return self._redactor.redact(text) == text

    def pattern(self, text: str) -> str:
        """Return a regular expression for *text*, with anything instead of what is private."""
        return rf"(?s)\A{'.+?'.join(map(re.escape, self.text(text).split(MASK)))}\Z"


def _private_parts(text: str) -> Iterable[tuple[int, int]]:
    for match in _PRIVATE.finditer(text):
        yield match.span()
    for match in _ENCODED.finditer(text):
        if any(_PRIVATE.search(plain) for plain in _decoded(match[0])):
            yield match.span()


def _decoded(text: str) -> Iterable[str]:
    """Yield what *text* may mean in Base64, for each position of its first character in a group of four."""
    standard = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    for skipped in range(4):
        part = standard[skipped:]
        whole = part[: len(part) - (len(part) % 4 == 1)]
        try:
            yield base64.b64decode(whole + "=" * (-len(whole) % 4)).decode("latin-1")
        except binascii.Error:  # pragma: no cover - the alphabet and the length fit
            continue
