"""The decorators of ``@task``."""
