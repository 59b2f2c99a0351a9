"""Durable files of a batch: when a write has returned, it survives the loss of the machine.

Local files are flushed to the disk, and so are their folders. Other stores acknowledge a file when it is
closed; nothing is appended or renamed there, because object stores cannot do that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import tenacity

from airflow_provider_agentforce.exceptions import AgentforceError, LedgerError, one_line

_T = TypeVar("_T")

# The folder of a batch's checkpoint, beside its results.
CHECKPOINT = "_ledger"

_ATTEMPTS = 4
_CHUNK = 200_000
# Stores without folders: creating one there would create the bucket, even if its name is misspelt.
_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "adl"}
_FINAL = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_TEMPORARY = ".tmp"
# Errors that a retry meets again: nothing can be read or written at the path.
_WRONG_PATH = {
    errno.EEXIST,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENODEV,
    errno.ENOTDIR,
    errno.ENXIO,
    errno.EROFS,
}

_again = tenacity.Retrying(
    # A timeout of the task or an exit is not an Exception, and ends the call.
    retry=tenacity.retry_all(
        tenacity.retry_if_exception_type(Exception), tenacity.retry_if_not_exception_type(_FINAL)
    ),
    wait=tenacity.wait_random_exponential(multiplier=0.2, max=3),
    stop=tenacity.stop_after_attempt(_ATTEMPTS),
    reraise=True,
)


def _once(call: Callable[..., _T], *args: Any, **options: Any) -> _T:
    return call(*args, **options)


class Storage:
    """A folder of a store whose files are written as a whole. Transient failures are retried.

    Methods raise :class:`OSError`, or an error of the store's library.

    :param folder: path object, such as Airflow's ``ObjectStoragePath``.
    """

    _try: Callable[..., Any] = _again

    def __init__(self, folder: Any) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Create the folder, if the store has folders."""
        if getattr(self._folder, "protocol", "") not in _BUCKETS:
            self._try(self._folder.mkdir, parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """Return the names of the files in it."""

        def listed() -> list[str]:
            _forget_listing(self._folder)
            try:
                return [path.name for path in self._folder.iterdir()]
            except FileNotFoundError:  # a store without folders, and nothing in this folder
                return []
            except NotADirectoryError:  # some stores raise it for an empty folder, too
                if self._folder.exists():
                    raise
                return []

        names = self._try(listed)
        return [name for name in names if not name.endswith(_TEMPORARY)]

    def read(self, name: str) -> bytes | None:
        """Return the contents of a file, ``None`` if there is none."""

        def read() -> bytes | None:
            try:
                with self.open(name) as file:
                    body: bytes = file.read()
            except FileNotFoundError:
                return None
            return body

        found: bytes | None = self._try(read)
        return found

    def open(self, name: str) -> Any:
        """Open a file for reading bytes at any place."""
        path = self._folder / name
        _forget_listing(path)
        return path.open("rb")

    def write(self, name: str, content: Callable[[], Iterable[bytes]]) -> None:
        """Write a whole file, durably: when this returns, the store has acknowledged it.

        :param content: returns the contents; called again for each attempt to write.
        """
        path = self._folder / name

        def write() -> None:
            # Written directly to the store, a file would be stored incomplete if an error or a timeout closes
            # it.
            with tempfile.NamedTemporaryFile() as whole:
                whole.writelines(content())
                whole.flush()
                path.fs.put_file(whole.name, path.path)

        self._try(write)

    def create(self, name: str, content: bytes) -> None:
        """Write a file unless there is one; of several processes that do this at once, one writes it.

        A store that cannot decide this may keep the file of the last one.
        """
        path = self._folder / name

        def create() -> None:
            _forget_listing(path)
            if path.exists():
                return
            try:
                file = path.open("xb")
            except (ValueError, NotImplementedError):  # of a store that does not know this mode
                file = path.open("wb")
            with file:
                file.write(content)

        with contextlib.suppress(FileExistsError):
            self._try(create)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._try((self._folder / name).unlink)

    def close(self) -> None:
        """Close open files."""


class LocalStorage(Storage):
    """A folder on this machine, or a mounted one.

    :param sync: makes the file or folder of a descriptor durable. Tests record its calls.
    :ivar unsynced: whether something was appended since the last sync.
    """

    # Failures here are not transient.
    _try = staticmethod(_once)

    def __init__(self, folder: Path, sync: Callable[[int], None] = os.fsync) -> None:
        super().__init__(folder)
        self._sync = sync
        self._appended: tuple[str, int] | None = None
        self.unsynced = False

    def prepare(self) -> None:
        """Create the folder and its parents."""
        missing = [path for path in (self._folder, *self._folder.parents) if not path.exists()]
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            self._sync_folder(path.parent)

    def write(self, name: str, content: Callable[[], Iterable[bytes]]) -> None:
        """Write a file beside the old one, and replace that."""
        with self._written_beside(name, content) as temporary:
            temporary.replace(self._folder / name)

    def create(self, name: str, content: bytes) -> None:
        """Write a file unless there is one; of several processes that do this at once, one writes it."""
        path = self._folder / name
        with self._written_beside(name, lambda: [content]) as temporary:
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                if not path.exists():
                    temporary.replace(path)

    @contextlib.contextmanager
    def _written_beside(self, name: str, content: Callable[[], Iterable[bytes]]) -> Iterator[Path]:
        """Write a file for the block to put in its place, durably."""
        # Two processes may write the same file at once.
        temporary = self._folder / f"{name}.{uuid.uuid4().hex}{_TEMPORARY}"
        try:
            with temporary.open("xb") as file:
                file.writelines(content())
                file.flush()
                self._sync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._sync_folder(self._folder)

    def append(self, name: str, size: int, data: bytes, *, sync: bool = True) -> None:
        """Append to a file, after cutting off what an earlier attempt left after *size*.

        :param sync: ``False``: it survives this process, and becomes durable with the next sync.
        """
        descriptor = self._descriptor(name)
        try:
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, size)
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            self.unsynced = True
            if sync:
                self.sync()
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise

    def sync(self) -> None:
        """Sync what was appended without a sync."""
        if self._appended is not None and self.unsynced:
            self._sync(self._appended[1])
            self.unsynced = False

    def close(self) -> None:
        """Close the file that was appended to."""
        if self._appended is not None:
            # In this order, a signal in between leaves no closed descriptor to write to.
            (_, descriptor), self._appended = self._appended, None
            os.close(descriptor)

    def _descriptor(self, name: str) -> int:
        if self._appended is None or self._appended[0] != name:
            self.close()
            self._appended = (name, os.open(self._folder / name, os.O_WRONLY | os.O_APPEND))
        return self._appended[1]

    def _sync_folder(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self._sync(descriptor)
        finally:
            os.close(descriptor)


def lines_in(file: Any) -> Iterator[bytes]:
    """Yield the lines of an open file."""
    # The readline of an object store's file copies megabytes for each line.
    begun: list[bytes] = []
    while chunk := file.read(_CHUNK):
        first, *others = chunk.split(b"\n")
        begun.append(first)
        if others:
            yield b"".join(begun) + b"\n"
            begun = [others.pop()]
            for line in others:
                yield line + b"\n"
    rest = b"".join(begun)
    if rest:
        yield rest


def storage_of(folder: Any) -> Storage:
    """Return the storage for a path object: :class:`pathlib.Path`, or Airflow's ``ObjectStoragePath``."""
    local = local_path(folder)
    return Storage(folder) if local is None else LocalStorage(local)


def local_path(folder: Any) -> Path | None:
    """Return the path of a folder on this machine, ``None`` for one in another store."""
    # In Airflow 2 its path object is also a pathlib.Path, so the file system decides.
    store = getattr(folder, "fs", None)
    if store is not None:
        return Path(folder.path) if "local" in store.protocol else None
    local: Path = folder
    return local


def is_wrong_path(error: BaseException) -> bool:
    """Return whether *error* says that nothing can ever be read or written at a path."""
    return isinstance(error, OSError) and error.errno in _WRONG_PATH


def is_unusable(error: BaseException) -> bool:
    """Return whether *error*, at the first use of a folder, is one that a retry would also hit."""
    return is_wrong_path(error) or isinstance(error, _FINAL)


def prepared(storage: Storage, failure: str, hint: str = "") -> None:
    """Create the folder of *storage*; the parameters and errors are those of :func:`guarded`."""
    guarded(storage.prepare, failure, hint, lasting=is_unusable)


def guarded(
    call: Callable[[], _T],
    failure: str,
    hint: str = "",
    *,
    lasting: Callable[[BaseException], bool] = is_wrong_path,
) -> _T:
    """Return the result of *call*.

    :param failure: the consequence of a failure, such as ``The checkpoint cannot be read``.
    :param hint: what to do.
    :param lasting: returns whether a retry of the task would meet the same error.
    :raises LedgerError: for any error of the store's library.
    """
    try:
        return call()
    except AgentforceError:
        raise
    except Exception as error:
        raise LedgerError(
            f"{failure} ({type(error).__name__}: {one_line(str(error), 200)}).",
            hint=hint,
            retryable=not lasting(error),
        ) from error


def _forget_listing(path: Any) -> None:
    # Object stores cache listings, and another process may have written since.
    forget = getattr(getattr(path, "fs", None), "invalidate_cache", None)
    if forget is not None:
        forget()
