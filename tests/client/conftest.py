import pytest
import trustme
import wire
from hypothesis import settings
from quick import quick_process

from airflow_provider_agentforce.client import AgentforceClient, Session, Settings
from airflow_provider_agentforce.emulator import Emulator

settings.register_profile("client", database=None, deadline=None, derandomize=True)
settings.load_profile("client")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Wait a moment instead of seconds between attempts, and forget the limits that other tests used up."""
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ):
        for spelling in (name, name.upper()):
            monkeypatch.delenv(spelling, raising=False)
    with quick_process():
        yield


@pytest.fixture(scope="session")
def shared_org():
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def org(shared_org):
    """An org in which nothing has happened; every fault a test programs has to be met."""
    shared_org.reset()
    yield shared_org
    unused = shared_org.unused_faults()
    shared_org.reset()
    assert unused == []


@pytest.fixture
def make_org():
    running = []

    def start(**settings):
        emulator = Emulator(**settings)
        emulator.start()
        running.append(emulator)
        return emulator

    yield start
    for emulator in running:
        emulator.stop()


@pytest.fixture
def make_client(shared_org):
    """Build clients of an emulator; keyword arguments replace settings. They are closed with the test."""
    built = []

    def build(org=shared_org, *, on_secret=lambda _: None, observers=(), timing=None, **replaced):
        fields = {
            "host": org.url,
            "consumer_key": org.consumer_key,
            "consumer_secret": org.consumer_secret,
            "agent_id": org.agent_id,
            "api_url": org.url,
            "timeout": 5.0,
        }
        client = AgentforceClient(
            Settings(**{**fields, **replaced}), on_secret=on_secret, observers=observers, timing=timing
        )
        built.append(client)
        return client

    yield build
    for client in built:
        client.close()


@pytest.fixture
def client(org, make_client):
    return make_client(org)


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
