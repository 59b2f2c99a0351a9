"""These tests use Airflow's pages in a real browser, so they run only when asked for: ``make test-ui``."""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from agentforce_tab import PATIENCE_MS
from form import CONN_ID, Form, Pictures
from real_airflow import RealAirflow, left_out, running

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent.parent / "example_dags"
EXAMPLE_IDS = {
    "example_agentforce_conversation",
    "example_agentforce_person",
    "example_agentforce_session",
}
PAGE_IDS = {"refund", "careful", "accounts", "foreign"}
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# A browser that calls nobody but the pages of this machine.
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VIEW = {"width": 1000, "height": 1300}


def pytest_ignore_collect(collection_path, config):
    return left_out(HERE, "AGENTFORCE_UI_TESTS", collection_path, config)


@pytest.fixture(scope="session")
def browser():
    """Chromium, without a window."""
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415 - in the extra `ui` only

    program = next(filter(None, [os.environ.get("CHROMIUM"), *map(shutil.which, PROGRAMS)]), None)
    if program is None:
        pytest.exit("No Chromium: install it (apt-get install chromium), or name it in CHROMIUM.", 1)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def org():
    """The org of the connections. Pictures show the address that the documents name."""
    from airflow_provider_agentforce.emulator import Emulator  # noqa: PLC0415

    with Emulator(port=8765 if Pictures.wanted() else 0) as server:
        yield server


@pytest.fixture(scope="session")
def airflow(browser, org, tmp_path_factory):
    """Airflow with some of the example Dags and some of its own, and no connection to begin with."""
    if "agentforce" not in {one.name for one in entry_points(group="airflow.plugins")}:
        pytest.exit("The package was installed before it had a plugin: make install.", 1)
    dags = tmp_path_factory.mktemp("dags")
    for dag_id in EXAMPLE_IDS:
        shutil.copy(EXAMPLES / f"{dag_id}.py", dags)
    shutil.copy(HERE / "dags" / "page_dags.py", dags)
    environment = {
        "AIRFLOW_VAR_RESULTS": f"file://{tmp_path_factory.mktemp('results')}",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        # No test here kills a task, and a busy machine is no reason to take one for dead.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
    }
    with running(
        RealAirflow(tmp_path_factory.mktemp("airflow"), dags, environment), EXAMPLE_IDS | PAGE_IDS
    ) as started:
        yield started


@pytest.fixture(scope="session")
def visitor(browser, airflow):
    """One visitor, whose browser loads Airflow's pages once."""
    context = browser.new_context(
        base_url=airflow.url,
        viewport=VIEW,
        device_scale_factor=1.25,
        color_scheme="light",
        locale="en-US",
        timezone_id="UTC",
    )
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def page(visitor):
    """A new tab."""
    tab = visitor.new_page()
    yield tab
    tab.close()


@pytest.fixture
def form(page, airflow, org):
    """The list of connections, and the form that it opens. Afterwards there is no connection."""
    org.reset()
    yield Form(page)
    delete = {
        "action": "delete",
        "entities": [one["connection_id"] for one in airflow.ask("GET", "connections")["connections"]],
    }
    airflow.ask("PATCH", "connections", {"actions": [delete]})


@pytest.fixture
def connected(airflow, org):
    """The connection of the Dags, and an org without sessions and faults."""
    org.reset()
    fields = json.loads(org.connection())
    extra = json.dumps(fields.pop("extra"))
    airflow.ask("POST", "connections", {**fields, "connection_id": CONN_ID, "extra": extra})
    yield
    airflow.ask("DELETE", f"connections/{CONN_ID}")


@pytest.fixture
def seen(page):
    """Playwright's assertions, which wait."""
    from playwright.sync_api import expect  # noqa: PLC0415 - in the extra `ui` only

    return expect


@pytest.fixture
def picture(page, org):
    """Take a picture for the documents, or see whether the one that is there still shows what it should."""
    return Pictures(page, {org.url.rpartition(":")[2]: "8765"}).take
