"""Tests of an agent, without Airflow.

A ``golden`` conversation is read from YAML and run by ``runner`` in a separate session; each gives a
``Case``, as a run of the org's own tests does. A ``report`` counts the cases, says in words what did not
pass, and writes JUnit XML. Operators and the pytest plugin use all three.
"""
