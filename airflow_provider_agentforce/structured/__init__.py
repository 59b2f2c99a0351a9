"""Answers as data: JSON that fits a pydantic model, a ``TypedDict`` or a JSON schema. Needs no Airflow.

``json_in_answer`` finds the JSON in a ``Turn``, and ``output_type`` parses it into a value, or raises an
error that says what does not fit. ``json_schema`` checks a JSON schema, in a ``checker_process`` if that may
take long. ``corrective_question`` asks the agent to correct the answer, once.
"""

from __future__ import annotations

from airflow_provider_agentforce.structured.output_type import OutputType

__all__ = ["OutputType"]
