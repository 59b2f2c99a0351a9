"""Tests of an agent, without Airflow.

A ``golden`` conversation is read from YAML and run by ``runner`` in a separate session; the result is a
``Case``, as in a run of the org's own tests. A ``report`` counts the cases, says what did not pass, and
writes JUnit XML. The operators use all three, the pytest plugin the first two.
"""
