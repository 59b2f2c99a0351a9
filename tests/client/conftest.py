import pytest
import trustme
import wire

from airflow_provider_agentforce.client import Session


@pytest.fixture
def session(client):
    return client.start_session()


@pytest.fixture
def some_session():
    """A session that no server knows, for servers that do not look."""
    return Session("019d0aac-dcd0-7368-936c-106bffe75e84", 0, "0Xxxx0000000001CAA")


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    """A TLS context for localhost, of an authority that the client is told to trust."""
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return wire.server_context(authority, "localhost")


@pytest.fixture(scope="session")
def stranger():
    """A TLS context for localhost, of an authority that nobody trusts."""
    return wire.server_context(trustme.CA(), "localhost")


@pytest.fixture(params=["plain", "tls"])
def serve(request, trusted):
    """Start a server with a behaviour, in plain and over TLS."""
    running = []

    def start(behaviour):
        server = wire.Server(behaviour, tls=trusted if request.param == "tls" else None)
        running.append(server)
        return server.__enter__()

    yield start
    for server in running:
        server.__exit__()
