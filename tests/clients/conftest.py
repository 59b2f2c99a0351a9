"""These tests drive the emulator with clients of other people, as they come from their registries.

``make test-clients`` installs them and runs the tests, which run only when asked for.
"""

from __future__ import annotations

import pytest
from client_user import HERE, User
from keys import pem_of, public_pem, rsa_key
from real_airflow import left_out

from airflow_provider_agentforce.emulator import Emulator


def pytest_ignore_collect(collection_path, config):
    return left_out(HERE, "AGENTFORCE_CLIENT_TESTS", collection_path, config)


@pytest.fixture(scope="session")
def ca_file(tmp_path_factory):
    return tmp_path_factory.mktemp("tls") / "ca.pem"


@pytest.fixture(scope="session")
def private_key(ca_file):
    """The key of a named user, whose public key the org has."""
    key = rsa_key()
    ca_file.with_name("app.pem").write_text(public_pem(key))
    path = ca_file.with_name("private.key")
    path.write_text(pem_of(key))
    return path


@pytest.fixture(scope="session")
def shared_org(ca_file, private_key):
    with Emulator(tls=str(ca_file), certificate=str(private_key.with_name("app.pem"))) as emulator:
        yield emulator


@pytest.fixture
def user(tmp_path, org, ca_file):
    return User(tmp_path, org, ca_file)
