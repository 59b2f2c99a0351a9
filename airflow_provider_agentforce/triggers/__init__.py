"""The triggers: they wait, and send no message.

A task that waits for the org gives its worker slot back. Its trigger asks the org from time to time, with
the client of the connection, and wakes the task, which then looks for itself. What a trigger keeps are ids.
"""
