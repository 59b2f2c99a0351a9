"""One login for all processes of a machine: the file of the token, and who may have written it."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from quick import fields_of

ASK = """
import json, sys
from airflow_provider_agentforce.client import AgentforceClient, Settings
client = AgentforceClient(Settings(**json.loads(sys.argv[1])))
for line in sys.stdin:
    with client.conversation() as chat:
        print(chat.send("order 7?").outcome, flush=True)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def folder(temporary):
    return temporary / f"airflow-agentforce-{os.getuid()}"


@pytest.fixture
def sharing(make_client, temporary):
    """Build clients that share their token; each has memory of its own, as another process would."""
    return lambda **replaced: make_client(share_token=True, **replaced)


class Process:
    """A process of its own with a client that shares its token."""

    def __init__(self, org, **replaced):
        fields = json.dumps(fields_of(org, share_token=True, timeout=20.0, **replaced))
        self._process = subprocess.Popen(
            [sys.executable, "-c", ASK, fields], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def talk(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@pytest.fixture
def processes(org, temporary):
    started = []

    def start(number):
        started.extend(Process(org) for _ in range(number))
        return started

    yield start
    for one in started:
        one.close()


def talk(client):
    with client.conversation() as chat:
        return chat.send("order 7?")


def all_talk(processes):
    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(Process.talk, processes))


def test_processes_that_begin_at_once_log_in_once_and_renew_once(org, processes):
    group = processes(4)
    assert all_talk(group) == ["answered"] * 4
    assert org.tokens_issued == 1
    org.revoke_tokens()
    assert all_talk(group) == ["answered"] * 4
    assert org.tokens_issued == 2
    # Who was refused tells the others: after that they do not try the old token.
    refused = [request.status for request in org.requests].count(401)
    assert all_talk(group) == ["answered"] * 4
    assert [request.status for request in org.requests].count(401) == refused
    assert org.tokens_issued == 2


def test_a_process_that_has_not_asked_since_learns_of_a_refusal_without_one(org, sharing):
    one, other = sharing(), sharing()
    talk(one)
    talk(other)
    org.revoke_tokens()
    talk(one)
    refused = [request.status for request in org.requests].count(401)
    assert refused == 1
    talk(other)
    assert [request.status for request in org.requests].count(401) == 1
    assert org.tokens_issued == 2


def test_a_thread_that_asks_while_another_one_reads_the_file_does_not_log_in(org, sharing):
    armed = []

    def ask_meanwhile(_token):
        if armed:
            ask = armed.pop()
            with ThreadPoolExecutor(1) as other_thread:
                other_thread.submit(ask).result(30)

    one, other = sharing(), sharing(on_secret=ask_meanwhile)
    talk(one)
    talk(other)
    org.revoke_tokens()
    talk(one)
    armed.append(lambda: talk(other))
    talk(other)
    assert armed == []
    assert org.tokens_issued == 2


def test_without_the_extra_each_client_logs_in_and_nothing_is_written(org, make_client, folder):
    talk(make_client())
    talk(make_client())
    assert org.tokens_issued == 2
    assert not folder.exists()


def test_the_file_is_of_this_user_alone_and_shows_neither_token_nor_secret(org, sharing, folder):
    came = []
    talk(sharing(on_secret=came.append))
    (file,) = folder.glob("*.token")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    body = file.read_bytes()
    assert came
    for secret in (*came, org.consumer_secret, org.consumer_key):
        assert secret.encode() not in body
    assert {path.suffix for path in folder.iterdir()} == {".token", ".lock"}


def test_a_token_of_the_file_is_masked_as_one_of_the_org_is(org, sharing):
    first, second = [], []
    talk(sharing(on_secret=first.append))
    talk(sharing(on_secret=second.append))
    assert org.tokens_issued == 1
    assert set(first) == set(second)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: file.write_bytes(os.urandom(200_000)),
        lambda file: file.chmod(0o644),
        lambda file: file.unlink(),
        lambda file: file.rename(file.with_suffix(".real")) and file.symlink_to(file.with_suffix(".real")),
        lambda file: file.unlink() or os.mkfifo(file, 0o600),
    ],
    ids=["empty", "cut", "noise", "readable by others", "gone", "a link", "a pipe"],
)
def test_a_file_that_cannot_be_trusted_is_not_used_and_written_again(org, sharing, folder, spoil):
    talk(sharing())
    (file,) = folder.glob("*.token")
    spoil(file)
    talk(sharing())
    assert org.tokens_issued == 2
    talk(sharing())
    assert org.tokens_issued == 2
    assert stat.S_IMODE(file.lstat().st_mode) == 0o600


def test_another_secret_does_not_read_the_file(make_org, make_client, temporary):
    org = make_org()
    talk(make_client(org, share_token=True))
    other = make_client(org, share_token=True, consumer_secret="another")
    with pytest.raises(Exception, match="secret"):
        talk(other)
    talk(make_client(org, share_token=True))
    assert org.tokens_issued == 1


@pytest.mark.parametrize("kind", ["readable by others", "a link", "a file"])
def test_a_folder_that_others_could_write_is_not_used(org, sharing, folder, temporary, kind, caplog):
    if kind == "readable by others":
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
    elif kind == "a link":
        (temporary / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(temporary / "elsewhere")
    else:
        folder.write_text("")
    client = sharing()
    talk(client)
    talk(client)
    talk(sharing())
    assert org.tokens_issued == 2
    assert list(temporary.rglob("*.token")) == []
    assert "not shared (share_token)" in caplog.text
    assert caplog.text.count("not shared (share_token)") == 2


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_not_used(org, sharing, folder):
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    talk(sharing())
    talk(sharing())
    assert org.tokens_issued == 2


def test_a_process_that_is_killed_while_it_logs_in_holds_up_no_other(make_org, temporary):
    org = make_org()
    org.fail("token", delay=30)
    stuck, other = Process(org), Process(org)
    stuck._process.stdin.write("\n")
    stuck._process.stdin.flush()
    end = time.monotonic() + 60
    while not org.count("token"):
        assert time.monotonic() < end
        time.sleep(0.02)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(other.talk)
        stuck._process.send_signal(signal.SIGKILL)
        assert answer.result(60) == "answered"
    stuck.close()
    other.close()


def test_a_child_that_is_forked_during_a_login_holds_up_no_other(org, sharing):
    with ThreadPoolExecutor(1) as pool:
        with org.hold("token") as hold:
            answer = pool.submit(talk, sharing())
            hold.wait_until_held(timeout=30)
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(write)
                os.read(read, 1)
                os._exit(0)
        try:
            answer.result(60)
            org.revoke_tokens()
            began = time.monotonic()
            talk(sharing(timeout=30.0))
            assert time.monotonic() - began < 15
        finally:
            os.close(write)
            os.close(read)
            os.waitpid(child, 0)


def test_a_token_that_ends_is_renewed_by_one(make_org, make_client, temporary):
    org = make_org(token_lifetime=4)
    clients = [make_client(org, share_token=True) for _ in range(3)]
    for client in clients:
        talk(client)
    assert org.tokens_issued == 1
    (file,) = Path(temporary).rglob("*.token")
    before = file.stat().st_ino
    end = time.monotonic() + 60
    while org.tokens_issued == 1:
        assert time.monotonic() < end
        talk(clients[0])
        time.sleep(0.1)
    assert file.stat().st_ino != before
    for client in clients[1:]:
        talk(client)
    assert org.tokens_issued <= 3
