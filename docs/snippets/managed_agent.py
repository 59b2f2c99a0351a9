"""An Agentforce agent through the managed-agent contract of the Common AI provider."""

import sys

if sys.version_info >= (3, 11):  # as the Common AI provider needs
    # [START invoke]
    from airflow.providers.common.ai.managed_agents.base import ManagedAgentRequest
    from airflow_provider_agentforce.hooks.agentforce import AgentforceHook

    hook = AgentforceHook("agentforce_default")
    agent = hook.agent()  # or hook.agent("Order_Agent")

    response = agent.invoke(ManagedAgentRequest(prompt="Where is order 4711?", timeout=60))
    print(response.text, response.raw["outcome"])

    with hook.conversation() as chat:  # one session for several messages; it ends here
        session_id = chat.session.session_id
        asked = agent.invoke(ManagedAgentRequest(prompt="Please refund order 4711.", session_id=session_id))
        if asked.raw["outcome"] == "needs_confirmation":
            approve = {"reply": True}  # or {"cancel": True}
            agent.invoke(ManagedAgentRequest(prompt="", session_id=session_id, vendor_options=approve))
    # [END invoke]
