"""Imports pydantic and jsonschema when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from airflow_provider_agentforce.exceptions import AgentforceInputError


def library(module: str, needed: str) -> Any:
    """Return a module that has the attribute *needed*.

    :raises AgentforceInputError: if it is not installed, or too old.
    """
    try:
        found = import_module(module)
        getattr(found, needed)
    except (ImportError, AttributeError) as error:
        name = module.split(".", maxsplit=1)[0]
        raise AgentforceInputError(
            f"output_type needs {name}, which is missing or too old here. "
            "pip install 'airflow-provider-agentforce[structured]' brings it."
        ) from error
    return found
