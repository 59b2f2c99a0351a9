"""Answers as data: JSON that fits a pydantic model, a ``TypedDict`` or a JSON schema. Needs no Airflow.

The text of a ``Turn`` goes in: ``json_in_answer`` finds the JSON in it, and ``output_type`` makes a value
of that or an error that says what does not fit. A JSON schema is checked by ``json_schema``, in a
``checker_process`` where that may take long. ``corrective_question`` puts the error to the agent, once.
"""

from __future__ import annotations

from airflow_provider_agentforce.structured.output_type import OutputType

__all__ = ["OutputType"]
