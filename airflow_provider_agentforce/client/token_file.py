"""Keeps an access token in a file for all processes of one user on one machine, encrypted.

The key is derived from the connection's secret, so the file is useful only to someone who could log in
anyway. A file or folder that others could have written is not used; an unreadable one is written again.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airflow_provider_agentforce.client.responses import TokenReply
from airflow_provider_agentforce.client.settings import Settings
from airflow_provider_agentforce.client.timing import Deadline

log = logging.getLogger(__name__)

_PURPOSE = b"airflow-provider-agentforce access token, 1"
_MOST_BYTES = 100_000
# Without O_NONBLOCK, opening a pipe waits for a writer.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_ONLY_MINE = 0o077
_POLL = 0.05
# A clock that was set back makes an old token look new.
_MOST_SECONDS_AHEAD = 60.0


class _UnusableError(Exception):
    """The folder or the file is not one that only this user can have written."""


@dataclass(frozen=True)
class KeptToken:
    """A token read from the file; times are seconds of the wall clock."""

    reply: TokenReply
    asked_at: float
    renew_at: float
    ends_at: float


class TokenFile:
    """The file of one connection's token.

    :param folder: of the files. Default: one of this user's in the folder for temporary files.
    """

    def __init__(self, settings: Settings, folder: Path | None = None) -> None:
        who = [settings.host, settings.consumer_key, settings.auth, settings.username, settings.audience]
        identity = json.dumps(who).encode()
        self._folder = folder or Path(tempfile.gettempdir()) / f"airflow-agentforce-{os.getuid()}"
        self._path = self._folder / f"{hashlib.sha256(identity).hexdigest()[:32]}.token"
        self._cipher = _cipher(settings.consumer_secret or settings.signing_key, identity)
        self._seen: tuple[int, int, int] | None = None
        self._warned = False

    def learn(self, use: Callable[[KeptToken], None]) -> None:
        """Call *use* with the token of the file if it has changed since the last read, and can be read."""
        try:
            status = os.lstat(self._path)
        except OSError:
            return
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp == self._seen:
            return
        kept = self.read()
        if kept is not None:
            use(kept)
        # Last, as another thread takes a file that was seen for one whose token is in use.
        self._seen = stamp

    def read(self) -> KeptToken | None:
        """Return the token of the file, ``None`` if there is none that can be used."""
        try:
            _check_folder(self._folder)
            return self._decrypted(_read_own(self._path))
        except (FileNotFoundError, _UnusableError):
            return None
        except OSError as error:
            log.debug("The token file cannot be read: %s", error)
            return None

    def write(self, kept: KeptToken) -> None:
        """Put a token into the file, as a whole. A failure is logged: this process has the token anyway."""
        body = self._cipher.encrypt(json.dumps(asdict(kept) | {"reply": _as_json(kept.reply)}).encode())
        try:
            _make_folder(self._folder)
            descriptor, temporary = tempfile.mkstemp(dir=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(body)
                Path(temporary).replace(self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
                raise
        except (OSError, _UnusableError) as error:
            self._warn(error)

    @contextlib.contextmanager
    def lock(self, deadline: Deadline, *, longest: float) -> Iterator[None]:
        """Keep other processes from getting a token meanwhile; continue without that if they take too long.

        :param deadline: of the caller.
        :param longest: seconds to wait for another process.
        """
        descriptor = self._open_lock()
        if descriptor is None:
            yield
            return
        try:
            end = deadline.clock() + longest
            while not _locked(descriptor) and deadline.clock() < end:
                deadline.sleep(_POLL)
            yield
        finally:
            # A child that was forked meanwhile would keep the lock after a mere close.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _open_lock(self) -> int | None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            _make_folder(self._folder)
            return os.open(self._path.with_suffix(".lock"), flags, 0o600)
        except (OSError, _UnusableError) as error:
            self._warn(error)
            return None

    def _decrypted(self, body: bytes) -> KeptToken | None:
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 - only where a token is shared

        try:
            found: dict[str, Any] = json.loads(self._cipher.decrypt(body))
            kept = KeptToken(**{**found, "reply": _from_json(found["reply"])})
        except (InvalidToken, ValueError, TypeError, KeyError):
            return None
        return kept if kept.asked_at <= time.time() + _MOST_SECONDS_AHEAD else None

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            log.warning("The access token is not shared (share_token), and each process logs in: %s", error)


def _cipher(secret: str, identity: bytes) -> Any:
    """Return a cipher whose key only someone who knows the secret can derive."""
    from cryptography.fernet import Fernet  # noqa: PLC0415 - only where a token is shared
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    key = HKDF(SHA256(), 32, salt=None, info=_PURPOSE + identity).derive(secret.encode())
    return Fernet(base64.urlsafe_b64encode(key))


def _make_folder(folder: Path) -> None:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _check_folder(folder)


def _check_folder(folder: Path) -> None:
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or not _is_only_mine(status):
        raise _UnusableError(f"{folder} must be a folder that belongs to this user alone (mode 0700).")


def _read_own(path: Path) -> bytes:
    descriptor = os.open(path, _OPEN)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _is_only_mine(status):
            raise _UnusableError(f"{path} must be a file that belongs to this user alone (mode 0600).")
        return file.read(_MOST_BYTES)


def _is_only_mine(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & _ONLY_MINE


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("The file system of the token file has no locks: %s", error)
    return True


def _as_json(reply: TokenReply) -> dict[str, Any]:
    scopes = None if reply.scopes is None else sorted(reply.scopes)
    return {**asdict(reply), "scopes": scopes}


def _from_json(found: dict[str, Any]) -> TokenReply:
    scopes = found["scopes"]
    return TokenReply(**{**found, "scopes": None if scopes is None else frozenset(scopes)})
