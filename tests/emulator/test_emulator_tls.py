import socket

import pytest
import requests

from airflow_provider_agentforce.emulator import Emulator


@pytest.fixture
def ca_file(tmp_path):
    return tmp_path / "ca.pem"


@pytest.fixture
def org(make_org, ca_file):
    return make_org(tls=str(ca_file))


@pytest.fixture
def ask(org, ca_file):
    def ask(url, *, proxy=True, trusted=True, headers=None):
        with requests.Session() as http:
            http.trust_env = False
            proxies = {"https": org.proxy_url} if proxy else {}
            verify = str(ca_file) if trusted else True
            return http.get(url, proxies=proxies, verify=verify, headers=headers, timeout=10)

    return ask


def test_the_org_speaks_https_with_a_certificate_of_its_ca(org, ask):
    assert org.url.startswith("https://127.0.0.1:")
    assert ask(org.url + "/services/data", proxy=False).status_code == 200
    with pytest.raises(requests.exceptions.SSLError):
        ask(org.url + "/services/data", proxy=False, trusted=False)


@pytest.mark.parametrize(
    "host",
    [
        "api.salesforce.com",
        "test.api.salesforce.com",
        "login.salesforce.com",
        "acme.my.salesforce.com",
        "acme--uat.sandbox.my.salesforce.com",
    ],
)
def test_the_proxy_leads_the_hosts_of_salesforce_to_the_org(org, ask, host):
    assert ask(f"https://{host}/services/data").headers["X-Agentforce-Emulator"] == "1"
    assert org.requests[-1].headers["host"] == host


def test_the_proxy_leads_to_the_org_itself(org, ask):
    assert ask(org.url + "/services/data").status_code == 200


@pytest.mark.parametrize(
    "url", ["https://example.com/", "https://salesforce.com.example/", "https://127.0.0.1:1/"]
)
def test_the_proxy_leads_nowhere_else(org, ask, url):
    with pytest.raises(requests.exceptions.ProxyError, match="403"):
        ask(url)
    assert org.requests == []


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\n\r\n", b"CONNECT nonsense HTTP/1.1\r\n\r\n", b"CONN"])
def test_the_proxy_closes_what_it_does_not_understand(org, ask, head):
    host, _, port = org.proxy_url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as caller:
        caller.sendall(head)
        caller.shutdown(socket.SHUT_WR)
        answer = caller.recv(100)
    assert answer in (b"", b"HTTP/1.1 403 Only for Salesforce\r\n\r\n")
    assert ask("https://api.salesforce.com/services/data").status_code == 200


def test_a_foreign_host_is_refused_with_and_without_tls(org, ask, make_org):
    assert ask(org.url, proxy=False, headers={"Host": "example.com"}).status_code == 403
    plain = make_org()
    assert plain.proxy_url is None
    salesforce = {"Host": "api.salesforce.com"}
    assert requests.get(plain.url, headers=salesforce, timeout=10).status_code == 403


def test_the_org_stops_and_starts_with_its_proxy_while_it_is_in_use(org, ask, ca_file):
    host, _, port = org.proxy_url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as caller:
        caller.sendall(b"CONNECT api.salesforce.com:443 HTTP/1.1\r\n\r\n")
        assert caller.recv(100).startswith(b"HTTP/1.1 200 ")
        url = org.url
        org.stop()
        assert caller.recv(100) == b""
    org.start()
    assert org.url == url
    assert ask("https://api.salesforce.com/services/data").status_code == 200


def test_a_ca_file_that_cannot_be_written_is_named(tmp_path):
    emulator = Emulator(tls=str(tmp_path / "missing" / "ca.pem"))
    with pytest.raises(OSError, match=r"missing/ca\.pem"):
        emulator.start()
