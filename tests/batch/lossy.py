"""A disk that forgets what was not synced, as that of a machine that loses its power."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from airflow_provider_agentforce.batch.storage import LocalStorage


class Disk:
    """Keeps, of each file that is synced, the contents of that moment, and of each folder its names.

    :param folder: where the synced contents go. It is what the machine finds after the loss.
    :param forgets: keep of a file that claims records only what it began with, as if nobody synced it.
    """

    def __init__(self, folder, *, forgets=False):
        self.folder = Path(folder)
        self._forgets = forgets
        self._files = self.folder / "files"
        self._names = self.folder / "names"
        self._make()

    def storage_of(self, path):
        """Return a storage whose syncs are recorded."""
        return LocalStorage(Path(path), self._sync)

    def _sync(self, descriptor):
        os.fsync(descriptor)
        status = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if stat.S_ISDIR(status.st_mode):
            self._put_names(path)
        elif not (self._forgets and _claims(path) and (self._files / str(status.st_ino)).exists()):
            self._put(self._files / str(status.st_ino), path.read_bytes())

    def _put_names(self, folder):
        inodes = {entry.name: entry.inode() for entry in os.scandir(folder) if entry.is_file()}
        text = "\n".join(f"{inode} {name}" for name, inode in inodes.items())
        self._put(self._names / str(folder).replace("/", "#"), text.encode())

    @staticmethod
    def _put(path, content):
        new = path.with_suffix(".new")
        new.write_bytes(content)
        new.replace(path)

    def lose(self):
        """Make the folders what they are after the machine was lost."""
        left = {}
        for listing in self._names.iterdir():
            folder = Path(listing.name.replace("#", "/"))
            contents = left[folder] = {}
            for line in listing.read_text().splitlines():
                inode, _, name = line.partition(" ")
                synced = self._files / inode
                if not name.endswith(".tmp"):
                    contents[name] = synced.read_bytes() if synced.exists() else b""
            for path in folder.iterdir():
                if path.is_file():
                    path.unlink()
            for name, content in contents.items():
                (folder / name).write_bytes(content)
        shutil.rmtree(self.folder)
        self._make()
        # What is left is on the disk.
        for folder, contents in left.items():
            for name, content in contents.items():
                self._put(self._files / str((folder / name).stat().st_ino), content)
            self._put_names(folder)

    def _make(self):
        self._files.mkdir(parents=True, exist_ok=True)
        self._names.mkdir(exist_ok=True)


def _claims(path):
    """Tell whether a file of the checkpoint may claim records, which its name says."""
    return path.name.startswith("part-") and not path.name.endswith("-00000000.jsonl")
