"""What a message costs: ``AgentforceClient.send_message`` in an open conversation, against bare ``requests``.

Five ways send the same JSON to the same server in turn, a few messages each, so that whatever else the
machine does meets all of them alike:

* the client;
* ``requests.Session.post`` on a kept connection, which does not even parse the reply: the reference;
* the same with ``trust_env = False``, so that it reads no proxies and no CA bundle from the environment;
* ``http.client`` on a kept connection: the least that Python can do;
* ``requests.post``, a new connection for every message.

All of it over plain http and TLS, through a proxy, and with a proxy that is for other hosts.

The server runs in a process of its own and costs little. Times are medians; CPU time is this process's own.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests
import trustme
from report import Row, table
from server import SEND_PATH, FixedServer

from airflow_provider_agentforce.client import AgentforceClient, Session, Settings, Turn
from airflow_provider_agentforce.client.models import session_from

ROUNDS = 100
BLOCK = 10
WARM_UP_ROUNDS = 10
GOAL = 0.55
PLAIN, TLS, PROXY = "plain http", "TLS", "through a proxy of the environment"
NO_PROXY = "with `NO_PROXY` for the host"
THREADS = 50
THREAD_MESSAGES = 40
THREAD_ROUNDS = 5
THREAD_GOAL = 1.9
_TEXT = "Where is my order 4711? Please answer in one sentence."
_CLIENT_AGENT = "airflow-provider-agentforce"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass
class Way:
    """One way to send a message, and what its messages took.

    :param send: sends one message, given its number.
    :ivar wall: milliseconds of every message.
    :ivar cpu: CPU milliseconds per message, of every block.
    """

    send: Callable[[int], None]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    sent: int = 0

    @property
    def median(self) -> float:
        """The median in milliseconds."""
        return statistics.median(self.wall)

    @property
    def p90(self) -> float:
        """What nine of ten messages do not exceed, in milliseconds."""
        return statistics.quantiles(self.wall, n=10)[8]

    @property
    def cpu_median(self) -> float:
        """The CPU time of a message in milliseconds."""
        return statistics.median(self.cpu)

    def run_block(self) -> None:
        """Send a block of messages and note what they took."""
        cpu = time.process_time()
        for _ in range(BLOCK):
            self.sent += 1
            begun = time.perf_counter()
            self.send(self.sent)
            self.wall.append((time.perf_counter() - begun) * 1000)
        self.cpu.append((time.process_time() - cpu) * 1000 / BLOCK)

    def forget(self) -> None:
        """Drop the figures of the warm-up."""
        self.wall.clear()
        self.cpu.clear()


def measure(how: str) -> list[Row]:
    with (
        _server(how) as server,
        requests.Session() as session,
        requests.Session() as blind,
    ):
        blind.trust_env = False
        blind.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        client = _client(server.url)
        turn = client.send_message(client.start_session(), _TEXT)
        bearer = "Bearer " + client.authenticate()[0].access_token

        def by_client(_number: int) -> None:
            nonlocal turn
            turn = client.send_message(turn, _TEXT)

        ways = {
            "client": Way(by_client),
            "session": Way(_by_requests(session.post, server.url, bearer)),
            "blind": Way(_by_requests(blind.post, server.url, bearer)),
            "floor": Way(_by_http_client(server.url, bearer)),
            "post": Way(_by_requests(requests.post, server.url, bearer)),
        }
        _run(ways, WARM_UP_ROUNDS)
        for way in ways.values():
            way.forget()
        before = server.connections()
        _run(ways, ROUNDS)
        opened = server.connections() - before
        client.end_session(turn)
        in_all = server.connections()[_CLIENT_AGENT]
        client.close()
    return _rows(how, ways, opened[_CLIENT_AGENT], in_all)


def _run(ways: dict[str, Way], rounds: int) -> None:
    order = list(ways.values())
    for _ in range(rounds):
        for way in order:
            way.run_block()
        order.append(order.pop(0))  # so that none always follows the same one


def _rows(how: str, ways: dict[str, Way], opened: int, in_all: int) -> list[Row]:
    client, session, blind, floor, post = ways.values()
    ratio = client.median / session.median
    count = len(client.wall)
    return [
        Row(
            f"A message, {how}: `send_message` against `requests.Session.post`, medians of {count}",
            f"at most {GOAL}",
            f"{ratio:.2f} ({client.median:.2f} against {session.median:.2f} ms; "
            f"p90 {client.p90:.2f} against {session.p90:.2f})",
            ratio <= GOAL,
        ),
        Row(
            f"The same: CPU time per message, {how}",
            "",
            f"{client.cpu_median:.2f} ms against {session.cpu_median:.2f} ms",
        ),
        Row(
            f"The same, against a session that does not read the environment, {how}",
            "",
            f"{client.median - blind.median:+.2f} ms ({client.median:.2f} against {blind.median:.2f}; "
            f"CPU {client.cpu_median:.2f} against {blind.cpu_median:.2f})",
        ),
        Row(
            f"The same, above `http.client` on a kept connection, {how}",
            "",
            f"{client.median - floor.median:+.2f} ms; `requests.Session.post` "
            f"{session.median - floor.median:+.2f} ms ({floor.median:.2f} ms, CPU {floor.cpu_median:.2f} ms)",
        ),
        Row(
            f"The same, against `requests.post` with a connection per message, {how}",
            "",
            f"{post.median / client.median:.1f} times faster ({post.median:.2f} ms, "
            f"CPU {post.cpu_median:.2f} ms)",
        ),
        Row(
            f"New connections during {count} messages of a conversation, {how}",
            "0",
            f"{opened} (token, start, messages and end together: {in_all})",
            opened == 0,
        ),
    ]


def _client(url: str) -> AgentforceClient:
    # No limit may stand in the way of the number of messages.
    most = 2 * BLOCK * (ROUNDS + WARM_UP_ROUNDS)
    return AgentforceClient(
        Settings(
            url,
            "key",
            "secret",
            agent_id="0XxEM0000000001",
            api_url=url,
            max_messages_per_session=most,
            max_concurrent_sessions=2 * THREADS,
        )
    )


def _by_requests(post: Callable[..., requests.Response], url: str, bearer: str) -> Callable[[int], None]:
    def send(number: int) -> None:
        body = {"message": {"sequenceId": number, "type": "Text", "text": _TEXT}}
        assert post(url + SEND_PATH, json=body, headers={"Authorization": bearer}, timeout=130).ok

    return send


def _by_http_client(url: str, bearer: str) -> Callable[[int], None]:
    address = urlsplit(url)
    assert address.hostname is not None
    if address.scheme == "https":
        context = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])
        line = http.client.HTTPSConnection(address.hostname, address.port, timeout=130, context=context)
    else:
        line = http.client.HTTPConnection(address.hostname, address.port, timeout=130)
    headers = {"Authorization": bearer, "Content-Type": "application/json"}

    def send(number: int) -> None:
        body = {"message": {"sequenceId": number, "type": "Text", "text": _TEXT}}
        line.request("POST", SEND_PATH, json.dumps(body).encode(), headers)
        reply = line.getresponse()
        reply.read()
        assert reply.status == 200

    return send


def threads() -> list[Row]:
    """Let many threads send at once: all with one client, and each with a ``requests.Session`` of its own."""
    ratios, client_rate, session_rate = [], 0.0, 0.0
    with _server() as server:
        client = _client(server.url)
        bearer = "Bearer " + client.authenticate()[0].access_token
        started = [client.start_session() for _ in range(THREADS)]
        sessions = [requests.Session() for _ in range(THREADS)]

        def by_client(number: int) -> None:
            turn: Session | Turn = started[number]
            for _ in range(THREAD_MESSAGES):
                turn = client.send_message(turn, _TEXT)
            started[number] = session_from(turn)

        def by_requests(number: int) -> None:
            send = _by_requests(sessions[number].post, server.url, bearer)
            for count in range(THREAD_MESSAGES):
                send(count)

        for _ in range(THREAD_ROUNDS):
            client_rate, session_rate = _rate(by_client), _rate(by_requests)
            ratios.append(client_rate / session_rate)
        client.close()
    ratio = statistics.median(ratios)
    return [
        Row(
            f"Messages per second of {THREADS} threads on one client, against a `requests.Session` for each",
            f"at least {THREAD_GOAL}",
            f"{ratio:.2f} ({client_rate:.0f} against {session_rate:.0f} in the last round)",
            ratio >= THREAD_GOAL,
        )
    ]


def _rate(work: Callable[[int], None]) -> float:
    begun = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    return THREADS * THREAD_MESSAGES / (time.perf_counter() - begun)


@contextmanager
def _server(how: str = PLAIN) -> Iterator[FixedServer]:
    """Serve, with an environment that leads to the server in the given way."""
    kept = dict(os.environ)
    for name in (*_PROXIES, "no_proxy", "NO_PROXY"):
        os.environ.pop(name, None)
    try:
        with tempfile.TemporaryDirectory() as folder, FixedServer(_certificate(folder, how)) as server:
            if how == PROXY:
                # The server answers whatever it is asked for, as a proxy, too.
                os.environ["HTTP_PROXY"] = server.url
            elif how == NO_PROXY:
                os.environ.update(HTTP_PROXY="http://proxy.invalid:3128", NO_PROXY="localhost,127.0.0.1")
            yield server
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _certificate(folder: str, how: str) -> Path | None:
    """Make a certificate for TLS, and have the environment name its CA."""
    if how != TLS:
        return None
    authority = trustme.CA()
    authority.cert_pem.write_to_path(f"{folder}/ca.pem")
    os.environ["REQUESTS_CA_BUNDLE"] = f"{folder}/ca.pem"
    certificate = Path(folder) / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    return certificate


def main() -> list[Row]:
    return [row for how in (PLAIN, TLS, PROXY, NO_PROXY) for row in measure(how)] + threads()


if __name__ == "__main__":
    print(table(main()))
