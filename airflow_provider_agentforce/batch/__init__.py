"""Asking an agent about many records in one process: at the org's speed, with a ledger beside the results.

Records come from a ``reader``, become messages in ``prompts``, and go through the ``runner`` to its
workers. Their rows come back to the runner, which has the ``checkpoint`` write them; ``job`` joins all of
it and writes the results. Imports no Airflow. Paths are :class:`pathlib.Path` or anything that behaves like
one, such as Airflow's ``ObjectStoragePath``; nothing here appends to a file, since object stores cannot.
"""
