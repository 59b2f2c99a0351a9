"""From an Airflow connection to the Agent API.

``agentforce`` reads the connection and gives its settings, observers and shared ``limits`` to a client;
``managed_agent`` and ``agent_conversation`` put the client behind the contract of Airflow's Common AI
provider. They return what the client returns; only its errors become those that end an Airflow
task (``errors``), and ``task_session`` ends the sessions that a task leaves open.
"""
