"""The provider's metadata: a mistake here breaks every Airflow command."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path

import airflow
import jsonschema
import pytest
from airflow.configuration import conf
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

from airflow_provider_agentforce import operators
from airflow_provider_agentforce.client.settings import EXTRAS
from airflow_provider_agentforce.get_provider_info import CONN_FIELDS, get_provider_info


@pytest.mark.parametrize("schema", ["provider_info.schema.json", "provider.yaml.schema.json"])
def test_fits_the_schemas_of_airflow(schema):
    rules = json.loads((Path(airflow.__file__).parent / schema).read_text())
    info = get_provider_info()
    if schema == "provider.yaml.schema.json":
        # Only community providers have these; the rest of the schema is what checks the form's fields.
        rules["required"] = []
    jsonschema.validate(info, rules)
    assert rules["properties"]["connection-types"]


def test_every_path_in_it_can_be_imported():
    info = get_provider_info()
    modules = [
        module
        for kind in ("operators", "sensors", "triggers", "hooks")
        for entry in info[kind]
        for module in entry["python-modules"]
    ]
    for module in modules:
        importlib.import_module(module)
    for connection in info["connection-types"]:
        module, name = connection["hook-class-name"].rsplit(".", 1)
        hook = getattr(importlib.import_module(module), name)
        assert hook.conn_type == connection["connection-type"]
        assert hook.hook_name == connection["hook-name"]
    (commands,) = info["cli"]
    module, name = commands.rsplit(".", 1)
    assert callable(getattr(importlib.import_module(module), name))
    paths = [path.rsplit(".", 1) for path in info["extra-links"]]
    links = {getattr(importlib.import_module(module), name) for module, name in paths}
    shown = [
        getattr(operators, name).operator_extra_links for name in operators.__all__ if "Operator" in name
    ]
    assert links == {type(link) for of_one in shown for link in of_one}


def test_is_the_entry_point_of_a_distribution_of_the_same_name():
    (entry,) = importlib.metadata.distribution("airflow-provider-agentforce").entry_points.select(
        group="apache_airflow_provider"
    )
    assert entry.load()()["package-name"] == entry.dist.name


def test_the_form_has_a_field_for_every_extra():
    assert set(CONN_FIELDS) == set(EXTRAS)
    assert not [name for name in CONN_FIELDS if "__" in name]


def test_airflow_lists_the_connection_type():
    assert ProvidersManagerTaskRuntime().hooks["agentforce"].hook_name == "Salesforce Agentforce"


def test_airflow_knows_the_setting_and_its_default():
    assert conf.getboolean("agentforce", "capture_content") is False
