"""Asking an agent about many records in one process: at the org's speed, with a ledger beside the results.

Imports no Airflow. Paths are :class:`pathlib.Path` or anything that behaves like one, such as Airflow's
``ObjectStoragePath``; nothing here appends to a file, since object stores cannot.
"""
