"""Links from a task to the org, and to its page in Airflow.

``agent`` links to the agent's page in Setup, ``page`` to the task's conversation or batch in Airflow. An
operator stores the address as soon as it is known; Airflow reads it when it shows the task. An address
contains a host, ids and names of the Dag, and no secret.
"""
