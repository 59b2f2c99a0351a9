"""The command ``check``, as ``python -m airflow_provider_agentforce check`` and ``airflow agentforce check``.

``definition`` is what Airflow reads for every one of its commands, so it imports nothing of the package;
``check`` asks the hook for a diagnosis and prints it. The hook does not depend on the commands.
"""
