"""Drives the PyPI package ``salesforce-agentforce`` as its user would, in an environment of its own."""

import json
import sys

from agentforce.agents import Agentforce

host, key, secret, agent_id = sys.argv[1:]
agentforce = Agentforce()
agentforce.authenticate(salesforce_org=host, client_id=key, client_secret=secret)
session = agentforce.start_session(agent_id=agent_id)
answers = []
for text in ("Where is order 123?", "How many open cases are there?"):
    agentforce.add_message_text(text)
    answers.append(agentforce.send_message(session_id=session.sessionId).messages[0].message)
ended = agentforce.end_session(session_id=session.sessionId)
print(json.dumps([session.messages[0].message, *answers, ended.messages[0].reason]))  # noqa: T201
