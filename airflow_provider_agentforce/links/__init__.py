"""From a task to the org.

``agent`` is the link to the agent's page in Setup. The operators say which agent it is, as soon as they know;
Airflow asks for the address when it shows the task. It holds the org's host and the agent's id, no secret.
"""
