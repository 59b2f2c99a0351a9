"""Asking an agent about many records in one process, with a checkpoint beside the results.

``job`` leads the records from their ``sources`` through ``reader``, ``todo`` and ``prompts`` to the
``runner`` and its workers, which write what they ask and what is answered to the ``checkpoint``; ``output``
writes the results, also as a ``table``. A ``plan`` sends nothing. ``sample``, ``continuation`` and
``shard`` choose records, ``reuse`` takes earlier answers, ``agreement`` asks again, ``unknown`` settles
what is not known, and ``merging``, ``record_writer`` and ``session_traces`` work on results that are
written. Imports no Airflow. A path is a :class:`pathlib.Path` or behaves like one.
"""
