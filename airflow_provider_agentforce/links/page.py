"""The links from a task to its page in Airflow, which a plugin of this package shows."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from airflow_provider_agentforce._compat import BaseOperatorLink, conf, has_pages

ROUTE = "agentforce"
# The XCom with the contents of the page.
PAGE_XCOM = "agentforce_page"


def page_url(task_instance: Any) -> str:
    """Return the address of a task's page, ``""`` below Airflow 3.1.

    It is relative: Airflow's own pages know the path that Airflow is served under, and a worker may not. It
    leads to the page itself, which opens the tab of the Dag run instead where there is one: Airflow shows no
    tabs of plugins to people who may not see plugins, such as those with FAB's role Viewer.
    """
    if not has_pages():
        return ""
    ti = task_instance
    task = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": ti.map_index}
    return f"{ROUTE}/?{urlencode({**task, 'tab': 1}, quote_via=quote)}"


def full_page_url(task_instance: Any) -> str:
    """Return the address of a task's page for its log, ``""`` if this worker does not know it."""
    base = conf.get("api", "base_url", fallback="")
    path = page_url(task_instance) if base else ""
    return f"{base.rstrip('/')}/{path}" if path else ""


class ConversationLink(BaseOperatorLink):
    """Leads from a task to its conversation, also while the task runs."""

    name = "Conversation"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - as Airflow calls it
        """Return the address, or ``""`` to show no link."""
        return page_url(ti_key)


class BatchLink(ConversationLink):
    """Leads from a task to the progress of its batch."""

    name = "Batch"
