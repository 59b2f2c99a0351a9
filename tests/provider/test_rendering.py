"""What Airflow's pages show of a task's fields."""

from __future__ import annotations

import pytest

from airflow_provider_agentforce import operators
from airflow_provider_agentforce._compat import BaseOperator

OPERATORS = [
    found
    for found in (getattr(operators, name) for name in operators.__all__)
    if isinstance(found, type) and issubclass(found, BaseOperator)
]
# The fields that may hold a list or a dict.
STRUCTURED = {"reply", "cancel", "session", "turn", "variables", "messages", "records", "results"}


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_field_that_may_hold_a_list_or_a_dict_is_shown_as_json(operator):
    fields = set(operator.template_fields)
    shown = dict.fromkeys(fields & STRUCTURED, "json")
    assert operator.template_fields_renderers == (shown | {"soql": "sql"} if "soql" in fields else shown)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_the_link_to_its_agent(operator):
    assert "Agentforce agent" in [link.name for link in operator.operator_extra_links]
