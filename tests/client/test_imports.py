"""What may import what: the client is usable without Airflow, and quick to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import airflow_provider_agentforce

PACKAGE = Path(airflow_provider_agentforce.__file__).parent
NAME = PACKAGE.name
PURE = (
    "agent_test_results",
    "answer_reader",
    "api_requests",
    "checklist",
    "delivery_policy",
    "error_words",
    "failure_catalogue",
    "json_values",
    "messages",
    "models",
    "otlp",
    "plans",
    "responses",
    "session_trace",
    "setup_paths",
    "sobjects",
    "sse",
    "validation",
)


def loaded_by(*names, then="pass"):
    """Return the modules that are loaded when a fresh interpreter imports *names* and runs *then*."""
    code = f"import sys, {', '.join(names)}; {then}; print(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def imports_of(file):
    """Yield the full name of everything that *file* imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules():
    return sorted(file for file in PACKAGE.rglob("*.py") if "example_dags" not in file.parts)


def layer_of(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_client_loads_no_airflow():
    loaded = loaded_by(f"{NAME}.client", f"{NAME}.client.client", f"{NAME}.client.diagnostics")
    assert f"{NAME}.client.client" in loaded
    assert [name for name in loaded if name.split(".")[0] == "airflow"] == []


def test_package_of_the_client_loads_no_http_library():
    loaded = loaded_by(f"{NAME}.client", f"{NAME}.exceptions")
    assert f"{NAME}.client.models" in loaded
    assert loaded & {"requests", "urllib3", "tenacity", "ssl", f"{NAME}.client.client"} == set()


def test_a_local_folder_loads_no_file_system_of_a_provider():
    paths = f"{NAME}.operators._paths"
    loaded = loaded_by(paths, then=f"{paths}.path_of('file:///data', 'result_path').exists()")
    assert "airflow.sdk.io.path" in loaded
    assert [name for name in loaded if name.startswith("airflow.providers.") and ".fs." in name] == []


def test_operators_load_neither_http_library_nor_client_when_a_dag_is_parsed():
    operators = [file.stem for file in (PACKAGE / "operators").glob("[a-z]*.py")]
    loaded = loaded_by(*(f"{NAME}.operators.{one}" for one in operators)) - loaded_by(
        "airflow.sdk.bases.operator"
    )
    assert f"{NAME}.operators.conversation" in loaded
    heavy = {"requests", "urllib3", "tenacity", "h11", "pydantic", "yaml", "jwt", "cryptography"}
    assert loaded & heavy == set()
    ours = [name for name in loaded if name.startswith(f"{NAME}.")]
    assert [name for name in ours if name.split(".")[1] in {"batch", "emulator", "hooks", "structured"}] == []
    client = {name for name in ours if name.startswith(f"{NAME}.client.")}
    assert client == {f"{NAME}.client.{name}" for name in ("error_words", "models", "validation")}


def test_a_dag_file_loads_the_operators_that_it_uses():
    loaded = {name for name in loaded_by(f"{NAME}.operators.conversation") if name.startswith(NAME)}
    assert not loaded & {
        f"{NAME}.operators.{name}" for name in ("agent_tests", "batch", "message", "session")
    }
    from airflow_provider_agentforce import operators  # noqa: PLC0415 - it is what is tested

    assert all(getattr(operators, name).__name__ == name for name in operators.__all__)


def test_client_is_found_where_it_is_promised():
    code = (
        f"from {NAME}.client import AgentforceClient, Conversation, Session, Settings, Turn, OUTCOMES;"
        f"import {NAME}.client as c; print(all(hasattr(c, name) for name in c.__all__))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = airflow_provider_agentforce.client.Nothing


@pytest.mark.parametrize("name", PURE)
def test_pure_module_does_no_io_and_knows_no_time_or_chance(name):
    forbidden = {
        "requests",
        "urllib3",
        "time",
        "random",
        "threading",
        "socket",
        "os",
        "ssl",
        "logging",
        "airflow",
    }
    file = PACKAGE / "client" / f"{name}.py"
    assert {found.split(".")[0] for found in imports_of(file)} & forbidden == set()


@pytest.mark.parametrize("name", PURE)
def test_pure_module_imports_only_pure_ones(name):
    inside = f"{NAME}.client."
    known = {"airflow_provider_agentforce.exceptions", *(inside + pure for pure in PURE)}
    mine = [found for found in imports_of(PACKAGE / "client" / f"{name}.py") if found.startswith(NAME)]
    for found in mine:
        parts = found.split(".")
        assert {".".join(parts[:2]), ".".join(parts[:3])} & known, found


def test_nothing_but_the_plugin_for_tests_imports_the_emulator():
    users = [
        str(file.relative_to(PACKAGE))
        for file in modules()
        if layer_of(file) != "emulator"
        and any(found.startswith(f"{NAME}.emulator") for found in imports_of(file))
    ]
    assert users == ["pytest_plugin.py"]


WITHOUT_AIRFLOW = {
    "",
    "batch",
    "client",
    "delivery",
    "emulator",
    "exceptions",
    "get_provider_info",
    "pytest_plugin",
    "redaction",
    "structured",
    "testing",
}
# Where its names are the same in every Airflow that has them; elsewhere _compat knows where they are.
WITH_AIRFLOW = {
    "_compat",
    "cli.definition",
    "hooks.agent_conversation",
    "hooks.limits",
    "hooks.managed_agent",
    "hooks.task_session",
    "instrumentation.lineage",
    "retry_policy",
    "toolsets.agentforce",
}
BY_COMPAT = {
    *("__main__", "cli"),
    *("decorators", "hooks", "instrumentation", "links", "operators", "plugins", "retry_policy", "sensors"),
    *("toolsets", "triggers"),
}


def module_of(file):
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def test_every_module_is_guarded_by_these_rules():
    assert {module_of(file).partition(".")[0] for file in modules()} == WITHOUT_AIRFLOW | BY_COMPAT | {
        "_compat"
    }


def test_airflow_is_imported_only_where_it_is_said():
    users = {
        module_of(file)
        for file in modules()
        if any(found.split(".")[0] == "airflow" for found in imports_of(file))
    }
    assert users == WITH_AIRFLOW
    assert not {name for name in users if name.partition(".")[0] in WITHOUT_AIRFLOW}
