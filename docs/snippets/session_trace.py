"""Read the org's own trace of a session, and find a message in it."""

from __future__ import annotations

# [START hook]
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook

hook = AgentforceHook()
with hook.conversation() as chat:
    answer = chat.send("Where is order 123?")

trace = hook.get_session_trace(answer)
found = trace.find_message("Where is order 123?", position=answer.sequence_id, same_before=0)
if found is not None:  # None proves nothing: the trace may be incomplete
    print("Delivered. The agent said:", found.answer)
print([(action.name, action.success, action.duration) for action in trace.actions])
# [END hook]

if found is None or found.answer != answer.text:
    raise SystemExit("The trace tells another story.")
