"""Keeps secrets out of texts, in every form and even if a text quotes them in part. Pure."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from urllib.parse import quote, quote_plus

MASK = "***"
# A shorter part of a secret is worthless, and common words must stay readable.
_SHORTEST_RUN = 8
_MOST_ADDED = 4
# An escape inside an escape inside an escape, such as JSON in a URL in HTML.
_MOST_LAYERS = 4
_SHORTEST_BASE64 = 4
# The id of the org, before the secret part of an opaque token. Every id of the org shares characters with it.
_ORG_ID = re.compile(r"\A00D[A-Za-z0-9]{12}(?:[A-Za-z0-9]{3})?!(?=.)")
_ESCAPE = re.compile(
    r"""
    %(?P<percent>[0-9A-Fa-f]{2})
    | \\u(?P<unicode>[0-9A-Fa-f]{4})
    | \\x(?P<byte>[0-9A-Fa-f]{2})
    | \\(?P<itself>[\\/"'])
    | (?P<entity>&(?:\#[0-9]{1,7}|\#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});)
    """,
    re.VERBOSE,
)


def forms(*secrets: str) -> set[str]:
    """Return the usual written forms of *secrets*, each complete, and also joined as ``id:secret``.

    They are for a log that masks exact texts; :class:`Redactor` knows every mixture and part of these forms.
    """
    found = set()
    for secret in (*secrets, ":".join(secrets)):
        percent = quote(secret, safe="")
        found |= {secret, percent, _lower_escapes(percent), quote_plus(secret)}
        found |= {html.escape(secret), json.dumps(secret)[1:-1]}
        for encoded in (base64.b64encode(secret.encode()), base64.urlsafe_b64encode(secret.encode())):
            found |= {encoded.decode(), encoded.decode().rstrip("=")}
    return {form for form in found if form}


class Redactor:
    """Masks secrets in texts. It can be shared between threads.

    Any run of 8 or more characters of a secret is masked: plain, percent-encoded, as HTML entities, with JSON
    escapes, any mixture of these, and in Base64 (both alphabets, with or without padding, alone or
    inside a longer text, such as ``id:secret``). A shorter secret is masked as a whole.

    :param secrets: secrets that are always masked.
    :param on_added: receives each other secret, in all forms that a log must mask.
    """

    def __init__(self, secrets: Iterable[str] = (), on_added: Callable[[str], None] = lambda _: None) -> None:
        self._lasting = tuple(filter(None, secrets))
        self._on_added = on_added
        self._added: tuple[str, ...] = ()

    def add(self, secret: str) -> None:
        """Also mask *secret*, until 4 others are added after it. For tokens, which expire."""
        if secret:
            others = tuple(one for one in self._added if one != secret)
            self._added = (*others, secret)[-_MOST_ADDED:]
            for form in forms(secret):
                self._on_added(form)

    def redact(self, text: str) -> str:
        """Return *text* with ``***`` instead of every secret. Takes time linear in its length."""
        hidden = bytearray(len(text))
        wanted: dict[int, list[frozenset[str]]] = {}
        for secret in (*self._lasting, *self._added):
            for length, runs in _runs(_ORG_ID.sub("", secret, 1)).items():
                wanted.setdefault(length, []).append(runs)
        for layer, edges in layers(text):
            for length, of_secrets in wanted.items():
                for start in range(len(layer) - length + 1):
                    run = layer[start : start + length]
                    if any(run in runs for runs in of_secrets):
                        begin, end = edges[start], edges[start + length]
                        hidden[begin:end] = b"\x01" * (end - begin)
        return masked(text, hidden)


def layers(text: str) -> Iterator[tuple[str, list[int] | range]]:
    """Yield *text*, then with its escapes resolved, once more for escapes in escapes, and so on.

    :returns: the text and, for each of its characters and for its end, the place in the original.
    """
    edges: list[int] | range = range(len(text) + 1)
    yield text, edges
    for _ in range(_MOST_LAYERS):
        plainer, places = _unescaped(text)
        if plainer == text:
            return
        text, edges = plainer, [edges[place] for place in places]
        yield text, edges


def _unescaped(text: str) -> tuple[str, list[int]]:
    """Resolve one layer of escapes; also return where each character of the result, and its end, began."""
    parts: list[str] = []
    places: list[int] = []
    position = 0
    for match in _ESCAPE.finditer(text):
        char = _character(match)
        parts += (text[position : match.start()], char)
        places += range(position, match.start())
        places += [match.start()] * len(char)
        position = match.end()
    parts.append(text[position:])
    places += range(position, len(text) + 1)
    return "".join(parts), places


def _character(escape: re.Match[str]) -> str:
    kind, code = escape.lastgroup, escape[escape.lastgroup or 0]
    if kind == "entity":
        return html.unescape(code)
    return code if kind == "itself" else chr(int(code, 16))


@lru_cache(maxsize=4 * _MOST_ADDED)
def _runs(secret: str) -> dict[int, frozenset[str]]:
    """Return the runs that give a secret away, by their length."""
    whole = {layer for layer, _ in layers(secret)}
    whole |= {form.replace(" ", "+") for form in whole}
    found: dict[int, set[str]] = {}
    for form in whole.union(_in_base64(secret)):
        length = min(len(form), _SHORTEST_RUN)
        found.setdefault(length, set()).update(
            form[start : start + length] for start in range(len(form) - length + 1)
        )
    return {length: frozenset(runs) for length, runs in found.items()}


def _in_base64(secret: str) -> Iterator[str]:
    """Yield what Base64 shows of a secret, at any position in a longer text."""
    raw = secret.encode()
    for before, mixed in ((0, 0), (1, 2), (2, 3)):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            at_the_end = encode(bytes(before) + raw).decode()[mixed:]
            inside = encode(bytes(before) + raw).decode()[mixed : (before + len(raw)) * 8 // 6]
            # A longer part inside has no run that the whole lacks.
            parts = (at_the_end, inside) if len(inside) < _SHORTEST_RUN else (at_the_end,)
            yield from (form for form in parts if len(form) >= _SHORTEST_BASE64)


def masked(text: str, hidden: bytearray) -> str:
    """Return *text* with ``***`` instead of each run of characters whose place in *hidden* is 1."""
    edges = [match.start() for match in re.finditer(rb"\x01+|\x00+", hidden)] + [len(text)]
    return "".join(MASK if hidden[begin] else text[begin:end] for begin, end in pairwise(edges))


def _lower_escapes(percent_encoded: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda escape: escape[0].lower(), percent_encoded)
