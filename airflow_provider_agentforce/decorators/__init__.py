"""The decorators of ``@task``.

``@task.agentforce`` calls the decorated function for its messages and gives them to the conversation
operator, which sends them and returns the answers. The function's return value is never rendered.
"""
