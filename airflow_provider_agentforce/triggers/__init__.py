"""The triggers: they wait, and send no message.

A task that waits for the org gives its worker slot back. Its trigger asks the org from time to time, with
the client of the connection and in a thread, and wakes the task with one event. A trigger only reads, since
Airflow may run it twice.
"""
