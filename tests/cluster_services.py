"""What a cluster stands on: PostgreSQL, Redis and an S3 store, on free ports of the loopback address."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import requests
from real_airflow import free_port

POSTGRESQL, REDIS, S3 = SERVICES = ("postgresql", "redis", "s3")
BUCKET = "agentforce"
# Debian's packages, each with where its file is.
PACKAGES = {
    "postgresql": "/usr/lib/postgresql/*/bin/postgres",
    "redis-server": "/usr/bin/redis-server",
    "libfaketime": "/usr/lib/*/faketime/libfaketimeMT.so.1",
}
_USER = "airflow"


class MissingPackagesError(Exception):
    """Programs that the cluster needs are not installed. The text names Debian's packages."""


def find_packages() -> dict[str, Path]:
    """Return the file of each package that the cluster needs.

    :raises MissingPackagesError: if any is not there.
    """
    found = {package: sorted(Path("/").glob(pattern[1:])) for package, pattern in PACKAGES.items()}
    missing = " ".join(package for package, paths in found.items() if not paths)
    if missing:
        raise MissingPackagesError(
            f"The cluster needs Debian's packages {missing}: apt-get install {missing}"
        )
    return {package: paths[-1] for package, paths in found.items()}


class Services:
    """The services of one cluster.

    :param folder: for their data, with a folder for each. Where this is root, PostgreSQL runs as the user
        ``postgres``, who has to be able to reach it.
    """

    def __init__(self, folder: Path) -> None:
        self._packages = find_packages()
        self._folders = {name: folder / name for name in SERVICES}
        self._ports = {name: free_port() for name in SERVICES}
        self._password = secrets.token_hex(16)
        self.addresses = {
            POSTGRESQL: f"postgresql+psycopg2://{_USER}:{self._password}@127.0.0.1:{self._ports[POSTGRESQL]}"
            "/postgres",
            REDIS: f"redis://:{self._password}@127.0.0.1:{self._ports[REDIS]}/0",
            S3: f"http://127.0.0.1:{self._ports[S3]}",
        }

    def prepare(self) -> None:
        """Make their folders, and the database."""
        for path in self._folders.values():
            path.mkdir()
        data = self._folders[POSTGRESQL]
        secret = data.with_suffix(".password")
        secret.write_text(self._password)
        options = self.options(POSTGRESQL)
        if options:
            for path in (data, secret):
                shutil.chown(path, options["user"], options["group"])
        command = [
            self._program("initdb"),
            "--pgdata",
            str(data),
            "--username",
            _USER,
            "--pwfile",
            str(secret),
        ]
        how = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        made = subprocess.run(
            [*command, *how], cwd=data, capture_output=True, text=True, check=False, **options
        )
        assert made.returncode == 0, made.stderr

    def command(self, name: str) -> list[str]:
        """Return the command of a service."""
        folder, port = str(self._folders[name]), str(self._ports[name])
        if name == POSTGRESQL:
            # It survives the loss of a process without fsync, and nobody turns the machine off.
            settings = {"fsync": "off", "unix_socket_directories": "", "max_connections": "200"}
            listed = [f"--{key}={value}" for key, value in settings.items()]
            return [self._program("postgres"), "-D", folder, "-h", "127.0.0.1", "-p", port, *listed]
        if name == REDIS:
            # A broker that forgets its queue when it is restarted is not one to rely on.
            kept = ["--appendonly", "yes", "--dir", folder, "--requirepass", self._password]
            return [str(self._packages["redis-server"]), "--bind", "127.0.0.1", "--port", port, *kept]
        return [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", port]

    def options(self, name: str) -> dict[str, Any]:
        """Return how the process of a service is to be started."""
        if name != POSTGRESQL or os.geteuid() != 0:
            return {}
        user = pwd.getpwnam("postgres")
        return {"user": user.pw_name, "group": user.pw_gid, "extra_groups": []}

    def signal_of(self, name: str) -> signal.Signals:
        """Return what ends a service in an orderly way, without waiting for its clients."""
        return signal.SIGINT if name == POSTGRESQL else signal.SIGTERM

    def answers(self, name: str) -> bool:
        """Tell whether a service answers. The S3 store has its bucket then."""
        if name == POSTGRESQL:
            asked = [self._program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self._ports[name])]
            return subprocess.run(asked, check=False).returncode == 0
        if name == REDIS:
            return self._redis_answers()
        try:
            return requests.put(f"{self.addresses[S3]}/{BUCKET}", timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):
            return False

    def settings(self) -> dict[str, str]:
        """Return the environment variables by which Airflow uses them."""
        store = {
            "conn_type": "aws",
            "login": "anyone",
            "password": self._password,
            "extra": {"endpoint_url": self.addresses[S3], "region_name": "us-east-1"},
        }
        return {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.addresses[POSTGRESQL],
            "AIRFLOW__CELERY__BROKER_URL": self.addresses[REDIS],
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{self.addresses[POSTGRESQL]}",
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(store),
        }

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Return what the bucket holds below *prefix*, by name."""
        listed = self._store.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        names = [one["Key"] for page in listed for one in page.get("Contents", [])]
        return {name: self._store.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}

    @cached_property
    def _store(self) -> Any:
        """A client of the S3 store, which is slow to make."""
        import boto3  # noqa: PLC0415 - in the extra `cluster` only

        return boto3.client(
            "s3",
            endpoint_url=self.addresses[S3],
            region_name="us-east-1",
            aws_access_key_id="anyone",
            aws_secret_access_key=self._password,
        )

    def _redis_answers(self) -> bool:
        import redis  # noqa: PLC0415 - in the extra `cluster` only

        with redis.Redis.from_url(self.addresses[REDIS]) as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.BusyLoadingError):
                return False

    def _program(self, name: str) -> str:
        return str(self._packages["postgresql"].with_name(name))
