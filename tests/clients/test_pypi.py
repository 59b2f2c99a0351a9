"""The two clients on PyPI."""

import json

from client_user import CLIENTS, HERE

SPEC = """
name: Staff questions
subjectType: AGENT
subjectName: Employee_Agent
testCases:
  - utterance: Where is order 123?
    expectedOutcome: The agent says where the order is.
  - utterance: How many open cases are there?
    expectedOutcome: The agent gives a number.
"""


def test_salesforce_agentforce_holds_a_conversation(user, org):
    python = CLIENTS / "salesforce-agentforce" / "bin" / "python"
    host = org.url.removeprefix("https://")
    app = (org.consumer_key, org.consumer_secret, org.agent_id)
    greeting, order, report, reason = json.loads(
        user.run(python, HERE / "salesforce_agentforce.py", host, *app)
    )
    assert greeting.startswith("Hi, I'm the emulator's agent.")
    assert order.startswith("Order 123 ")
    assert "open cases" in report
    assert reason == "ClientRequest"
    [session] = org.sessions.values()
    assert [turn.sequence_id for turn in session.turns] == [1, 2]
    assert (session.bypass_user, session.end_reason) == (True, "UserRequest")


def test_agentforce_probe_tests_an_employee_agent(user, org):
    probe = CLIENTS / "agentforce-probe" / "bin" / "agentforce-probe"
    user.log_in_sf()
    (user.home / "staff-spec.yaml").write_text(SPEC)
    (user.home / ".env").write_text(
        f"AGENTPROBE_SF_CONSUMER_KEY={org.consumer_key}\nAGENTPROBE_SF_CONSUMER_SECRET={org.consumer_secret}\n"
    )
    ready = user.run(probe, "doctor", "--org", "emulator")
    assert f"connected to {org.url}" in ready
    assert "Overall: READY" in ready

    run = ("run", "--org", "emulator", "--agent", "Employee_Agent", "--spec", "staff-spec.yaml")
    user.run(probe, *run, "--out", "evidence.md")
    task = json.loads((user.home / "Employee_Agent-judge-task.json").read_text())
    assert [case["utterance"] for case in task["cases"]] == [
        "Where is order 123?",
        "How many open cases are there?",
    ]
    verdicts = [{"id": case["id"], "verdict": "PASS", "reason": "As expected."} for case in task["cases"]]
    about = {"schema": "agentforce-probe/judge-verdicts@1", "agent": "Employee_Agent", "verdicts": verdicts}
    (user.home / "verdicts.json").write_text(json.dumps(about))
    user.run(probe, *run, "--from-verdicts", "verdicts.json", "--out", "evidence.md")
    evidence = (user.home / "evidence.md").read_text()
    assert "Order 123 " in evidence

    [session] = org.sessions.values()
    assert (session.bypass_user, session.applied) == (False, 2)
    # It ends its session without the header that the API requires, and takes no notice of the refusal.
    [ended] = [one for one in org.requests if one.operation == "end"]
    assert (ended.status, session.open) == (400, True)
