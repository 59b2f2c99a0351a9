"""Asking an agent about many records in one process, with a checkpoint beside the results.

Records come from their ``sources`` through a ``reader``, become messages in ``prompts``, and go through the
``runner`` to its workers. A worker writes what it asks and what came of it to the ``checkpoint``, over a
``storage``: files of this machine are appended to, those of an object store written whole. ``output`` writes
the results, also as a ``table``. ``job`` joins all of it, or makes a ``plan`` of it, which sends nothing.
Imports no Airflow. Paths are :class:`pathlib.Path` or anything that behaves like one, such as Airflow's
``ObjectStoragePath``.
"""
