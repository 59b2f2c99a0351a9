"""The plugin that Airflow loads by its entry point ``airflow.plugins``, in every process."""

from __future__ import annotations

from typing import Any

from airflow_provider_agentforce._compat import AirflowPlugin, has_pages, tabs_choose_operators
from airflow_provider_agentforce.links.page import ROUTE
from airflow_provider_agentforce.plugins.pages import Pages

_NAME = "Agentforce"
# Airflow shows the tab on tasks whose operator has one of these names.
_OPERATORS = (
    "ConversationOperator",
    "@task.agentforce",
    "StartSessionOperator",
    "SendMessageOperator",
    "SubmitFeedbackOperator",
    "EndSessionOperator",
    "ConversationBatchOperator",
)
# Relative, so that the pages are found where Airflow is served under a path.
_RUN = f"{ROUTE}/?dag_id={{DAG_ID}}&run_id={{RUN_ID}}"
_TASK = f"{_RUN}&task_id={{TASK_ID}}&map_index={{MAP_INDEX}}"


def _tab(**of: Any) -> dict[str, Any]:
    icons = {"icon": f"{ROUTE}/icon.svg", "icon_dark_mode": f"{ROUTE}/icon-dark.svg"}
    return {"name": _NAME, **icons, **of}


def _apps() -> list[dict[str, Any]]:
    return [{"app": Pages(), "name": _NAME, "url_prefix": f"/{ROUTE}"}] if has_pages() else []


def _tabs() -> list[dict[str, Any]]:
    if not has_pages():
        return []
    tabs = [_tab(href=_RUN, destination="dag_run", url_route=ROUTE)]
    if tabs_choose_operators():
        # Below Airflow 3.4 it would be shown on every task of every Dag.
        chosen = {"operator_name": list(_OPERATORS)}
        tabs.append(
            _tab(href=_TASK, destination="task_instance", url_route=f"{ROUTE}_task", applies_to=chosen)
        )
    return tabs


class AgentforcePlugin(AirflowPlugin):
    """The tab *Agentforce* and its pages. They need Airflow 3.1 or later."""

    name = ROUTE
    fastapi_apps = _apps()
    external_views = _tabs()
