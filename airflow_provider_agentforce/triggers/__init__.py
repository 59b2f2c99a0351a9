"""The triggers: what waits for the org without a worker slot.

A trigger only reads, since Airflow may run it twice: what changes anything happens in a task. The connection
comes in by Airflow's asynchronous call, each look at the org is a call in a thread, and one event goes back
to the task that waits.
"""
