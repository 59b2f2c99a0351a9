"""Answers as data: JSON that fits a pydantic model, a ``TypedDict`` or a JSON schema. Needs no Airflow."""

from __future__ import annotations

from airflow_provider_agentforce.structured.output_type import OutputType

__all__ = ["OutputType"]
