"""What a person does with the tab Agentforce of a Dag run."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

# A machine that does much else is slow, and this costs nothing elsewhere.
PATIENCE_MS = 60_000
FRAME = "iframe[title=Agentforce]"
READY = "main[aria-busy=false]"


class AgentforceTab:
    """The tab, inside of Airflow's page.

    :ivar main: what it shows.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.frame = page.frame_locator(FRAME)
        self.main = self.frame.locator(READY)

    def open(self, run: Any, task_id: str | None = None, map_index: int = -1, *, url: str = "") -> None:
        """Open it for a run, or for one task as the link of the task does."""
        query = {"agentforce_task": task_id, "agentforce_map_index": map_index} if task_id else {}
        path = f"{url}/dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}/plugin/agentforce"
        self.page.goto(f"{path}?{urlencode(query)}" if query else path)
        self.main.wait_for()

    def alone(self, run: Any, task_id: str | None = None, map_index: int = -1, *, url: str = "") -> Any:
        """Open what is inside of it as a page, and return that."""
        task = {"task_id": task_id, "map_index": map_index} if task_id else {}
        query = urlencode({"dag_id": run.dag_id, "run_id": run.run_id, **task})
        self.page.goto(f"{url}/agentforce/?{query}")
        self.page.locator(READY).wait_for()
        return self.page.locator(READY)
