"""Calls the emulator as any HTTP client would: no code of the project's client is used here."""

import json
import uuid

import requests

BASE = "/einstein/ai-agent/v1"


class Caller:
    def __init__(self, org):
        self.org = org
        self.http = requests.Session()
        self.bearer = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.close()

    def ask_token(self, **changes):
        form = {
            "grant_type": "client_credentials",
            "client_id": self.org.consumer_key,
            "client_secret": self.org.consumer_secret,
            **changes,
        }
        return self.http.post(self.org.url + "/services/oauth2/token", data=form)

    def login(self):
        self.bearer = self.ask_token().json()["access_token"]
        return self

    def call(self, method, path, body=None, *, headers=None, data=None):
        sent = {"Authorization": f"Bearer {self.bearer}"} if self.bearer else {}
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body), "application/json"
        sent.update(headers or {})
        kept = {name: value for name, value in sent.items() if value is not None}
        return self.http.request(method, self.org.url + path, data=data, headers=kept, timeout=10)

    def start_body(self, **changes):
        body = {
            "externalSessionKey": str(uuid.uuid4()),
            "instanceConfig": {"endpoint": self.org.url},
            "streamingCapabilities": {"chunkTypes": ["Text"]},
            "bypassUser": True,
            **changes,
        }
        return {name: value for name, value in body.items() if value is not ...}

    def start(self, agent_id=None, *, headers=None, **changes):
        path = f"{BASE}/agents/{agent_id or self.org.agent_id}/sessions"
        return self.call("POST", path, self.start_body(**changes), headers=headers)

    def open(self, **changes):
        return self.start(**changes).json()["sessionId"]

    def message(self, session, message, *, stream=False, headers=None, **more):
        path = f"{BASE}/sessions/{session}/messages" + ("/stream" if stream else "")
        accept = {"Accept": "text/event-stream"} if stream else {}
        return self.call("POST", path, {"message": message, **more}, headers={**accept, **(headers or {})})

    def send(self, session, text="hello", sequence_id=1, **options):
        message = {"type": "Text", "sequenceId": sequence_id, "text": text}
        return self.message(session, message, **options)

    def stream(self, session, text="hello", sequence_id=1):
        return read_events(self.send(session, text, sequence_id, stream=True).content)

    def end(self, session, reason="UserRequest"):
        return self.call("DELETE", f"{BASE}/sessions/{session}", headers={"x-session-end-reason": reason})

    def rate(self, session, **body):
        return self.call("POST", f"{BASE}/sessions/{session}/feedback", body)


def read_events(content):
    """Return ``(event, id, data)`` of each frame; the order of its lines is asserted here, once."""
    frames = content.decode().split("\n\n")
    assert frames.pop() == "", "a stream ends with a blank line"
    events = []
    for frame in frames:
        event, identity, data = frame.split("\n")
        assert (event[:7], identity[:4], data[:6]) == ("event: ", "id: ", "data: ")
        events.append((event[7:], identity[4:], json.loads(data[6:])))
    return events


def assert_refused(response, status, message, error=None):
    """Assert the documented error body, whole: fields, header, and what it says."""
    body = response.json()
    assert (response.status_code, body["status"]) == (status, status), body
    assert message in body["message"]
    assert {"status", "path", "requestId", "error", "message", "timestamp"} <= set(body)
    assert body["path"].startswith("v6.0.0/")
    assert response.headers["X-Request-ID"] == body["requestId"]
    assert error in (None, body["error"])
