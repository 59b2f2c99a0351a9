"""The triggers: they wait, and send no message.

A task that waits for the org frees its worker slot. Its trigger polls the org with the client of the
connection, in a thread, and resumes the task with one event; ``agent_published`` sends events to an asset
instead. A trigger that runs only reads, because Airflow may run it twice. ``agent_tests`` also cancels its
run if a person stops the task.
"""
