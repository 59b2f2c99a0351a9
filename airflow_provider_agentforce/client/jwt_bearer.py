"""The JWT-bearer flow: reads the private key, and signs the request for a token of a named user.

PyJWT and cryptography are imported by the functions that need them, so that only this flow pays for them.
https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_jwt_flow.htm
"""

from __future__ import annotations

import base64
import hashlib
import re
import stat
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, cast

from airflow_provider_agentforce.exceptions import SHORTEST_KEY_LINE, AgentforceInputError, one_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"

# The org accepts three minutes at most. Two leave a minute to clocks that differ, either way.
_LIFETIME = 120
# RFC 7518, section 3.3.
_FEWEST_BITS = 2048
_LARGEST_FILE = 65_536
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_FENCES = re.compile(r"-----[^-]*-----|\\+[nr]")
# A shorter piece of a key does not give it away.
_PIECE = 40
_ESCAPED_LINE_END = re.compile(r"\\+[nr]")
_READABLE = ("PRIVATE KEY", "RSA PRIVATE KEY")
_SANDBOX = re.compile(r"//([a-z0-9-]*--[a-z0-9-]*\.|([a-z0-9-]+\.)+(sandbox|scratch)\.)")
_UNENCRYPTED = "Give it without one: openssl pkey -in key.pem -out plain.pem."
_PRIVATE = "Give the private key that belongs to the app's certificate."


def default_audience(host: str) -> str:
    """Return the login host that the org behind *host* (its My Domain URL) belongs to."""
    return f"https://{'test' if _SANDBOX.match(host, host.index('//')) else 'login'}.salesforce.com"


def read_key(text: str | None, path: str | None) -> str:
    """Return the private key as a PEM text, whichever of the two forms it is given in.

    :param text: the PEM, or its Base64. Line ends may be escaped, spaces, or missing.
    :param path: of a file with such a text.
    :raises AgentforceInputError: it is not an RSA private key without a passphrase; the key is not shown.
    """
    field = "private_key" if path is None else "private_key_path"
    given = text if path is None else _file(path)
    assert given is not None  # noqa: S101 - one of the two is given
    pem = _private_block(_decoded(given), field)
    _check(pem, field)
    return pem


def assertion(pem: str, *, consumer_key: str, username: str, audience: str, now: float) -> str:
    """Return the assertion that is exchanged for a token: a JWT signed with RS256.

    :param now: wall clock in seconds.
    """
    import jwt  # noqa: PLC0415 - see the module

    claims = {"iss": consumer_key, "sub": username, "aud": audience, "exp": int(now) + _LIFETIME}
    return jwt.encode(claims, _loaded(pem), algorithm="RS256")


def key_fingerprint(pem: str) -> str:
    """Return the SHA-256 of the public key that belongs to *pem*, in hexadecimal digits.

    It is the hash of the DER of the public key, which a certificate also contains.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - see the module

    public = _loaded(pem).public_key()
    shape = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, shape)).hexdigest()


def _loaded(pem: str) -> RSAPrivateKey:
    """Return the key that :func:`read_key` has validated. Validating it again would take 40 ms."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    key = load_pem_private_key(pem.encode("ascii"), password=None, unsafe_skip_rsa_key_validation=True)
    return cast("RSAPrivateKey", key)


def key_parts(pem: str, given: str | None) -> tuple[str, ...]:
    """Return texts that must not be shown even in part: the key's lines, separate and joined, and *given*.

    :param given: the key as the connection has it, ``None`` for a file.
    """
    body = pem.split("-----")[2].strip()
    other = () if given is None or "-----" in given else ("".join(given.split()),)
    return (body, "".join(body.split()), *other)


def key_forms(pem: str, given: str | None) -> set[str]:
    """Return a few texts, one of which is in every quotation of the key: its lines, and its Base64 lines.

    A log that masks exact texts takes time for each. A line is a part of the PEM with line ends of any kind.
    """
    encoded = base64.b64encode(pem.encode()).decode()
    # The last bytes depend on the line end after the PEM.
    lines = [*pem.splitlines(), *(given or "").split(), encoded[:-8]]
    return {line for line in lines if len(line) >= SHORTEST_KEY_LINE and "-----" not in line}


def without_pieces(text: str, given: object) -> str:
    """Return *text* without any part of a private key: 40 or more characters in a row.

    :param given: the key as the connection has it, or anything else.
    """
    if not isinstance(given, str):
        return text
    hidden: set[int] = set()
    for form in {given, _decoded(given)}:
        key = "".join(_FENCES.sub("", form).split())
        pieces = {key[start : start + _PIECE] for start in range(len(key) - _PIECE + 1)}
        for start in range(len(text) - _PIECE + 1):
            if text[start : start + _PIECE] in pieces:
                hidden.update(range(start, start + _PIECE))
    shown = ("\0" if place in hidden else char for place, char in enumerate(text))
    return re.sub("\0+", "***", "".join(shown))


def _file(path: str) -> str:
    shown = one_line(path, 200)
    try:
        # Opening a pipe would wait for a writer.
        mode = Path(path).stat().st_mode
        is_file, content = stat.S_ISREG(mode), b""
        if is_file or stat.S_ISDIR(mode):
            with Path(path).open("rb") as file:
                content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not a path"
        raise AgentforceInputError(
            f"private_key_path: {shown} cannot be read on this machine: {reason}."
        ) from None
    if not is_file:
        raise AgentforceInputError(f"private_key_path: {shown} is not a regular file.")
    if len(content) > _LARGEST_FILE:
        raise AgentforceInputError(f"private_key_path: {shown} is too large for a private key.")
    return content.decode("utf-8-sig", "replace")


def _decoded(given: str) -> str:
    """Return the PEM in *given*, with real line ends."""
    text = _ESCAPED_LINE_END.sub("\n", given)
    if "-----" in text:
        return text
    try:
        text = base64.b64decode("".join(text.split()), validate=True).decode("utf-8-sig")
    except ValueError:
        return ""
    return _ESCAPED_LINE_END.sub("\n", text)


def _private_block(text: str, field: str) -> str:
    """Return the only private key in *text*, as PEM with lines of 64 characters."""
    blocks: list[tuple[str, str]] = _BLOCK.findall(text)
    private = [block for block in blocks if block[0].endswith("PRIVATE KEY")]
    if not blocks:
        raise AgentforceInputError(
            # Not with their dashes: what looks like a key is not shown.
            f"{field} is not a PEM: it must begin with the line BEGIN PRIVATE KEY and end with the line "
            "END PRIVATE KEY, each between five dashes, or be the Base64 of such a text."
        )
    if not private:
        raise AgentforceInputError(f"{field} holds only a {blocks[0][0].lower()}. {_PRIVATE}")
    if len(private) > 1:
        raise AgentforceInputError(f"{field} holds several private keys. {_PRIVATE}")
    label, body = private[0]
    if label == "ENCRYPTED PRIVATE KEY" or "ENCRYPTED" in body:
        raise AgentforceInputError(f"{field} is encrypted with a passphrase. {_UNENCRYPTED}")
    if label not in _READABLE:
        raise AgentforceInputError(f"{field} is an {label}; it must be an RSA key in PKCS #8 or PKCS #1.")
    lines = textwrap.wrap("".join(body.split()), 64)
    return "\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""))


def _check(pem: str, field: str) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see the module
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        key = load_pem_private_key(pem.encode("ascii"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise AgentforceInputError(
            f"{field} cannot be read as a private key: the PEM is damaged or cut. Copy all of it again."
        ) from None
    if not isinstance(key, RSAPrivateKey):
        raise AgentforceInputError(f"{field} is not an RSA key, which the JWT-bearer flow needs (RS256).")
    if key.key_size < _FEWEST_BITS:
        raise AgentforceInputError(
            f"{field} is an RSA key of {key.key_size} bits; RS256 needs {_FEWEST_BITS} or more."
        )
