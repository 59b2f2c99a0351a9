"""Asks an agent about many records in one process, with a checkpoint beside the results.

``job`` passes the records from their ``sources`` through ``reader``, ``todo`` and ``prompts`` to the
``runner`` and its workers, which write requests and answers to the ``checkpoint``; ``output`` writes the
results, also as a ``table``. A ``plan`` sends nothing. ``sample``, ``continuation`` and ``shard`` select
records, ``reuse`` uses earlier answers, ``asked_twice`` asks again, ``unknown`` resolves unknown deliveries,
and ``merging``, ``record_writer`` and ``session_traces`` process results that are written. The package does
not import Airflow. A path is a :class:`pathlib.Path` or behaves like one.
"""
