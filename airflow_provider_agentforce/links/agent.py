"""The link from a task to its agent in the Setup pages of the org."""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_agentforce._compat import BaseOperatorLink, xcom_of_airflow_2
from airflow_provider_agentforce.client import validation

LINK_XCOM = "agentforce_agent_url"

# Salesforce shows the address of an agent's page as .../lightning/setup/EinsteinCopilot/<agent id>/edit
# (https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-agent-id.html), and the list of agents
# is at .../home. This is documented for agents of the older builder; those of the newer one have their editor
# in Agentforce Studio, whose address is not documented. The My Domain redirects a browser to the host of the
# Setup pages, so that host need not be guessed.
_SETUP = "/lightning/setup/EinsteinCopilot/"
_AGENT_PAGE = rf"(https://[a-z0-9.:-]+){_SETUP}(?:[A-Za-z0-9_-]{{1,128}}/edit|home)"


def agent_url(my_domain: str, agent_id: str | None) -> str:
    """Return the URL of an agent's page, or ``""`` if *my_domain* is not a Salesforce host.

    This also hides the link for the emulator: its loopback address means the worker's machine, and in another
    person's browser it would open whatever listens there.

    :param my_domain: origin of the org.
    :param agent_id: BotDefinition id; ``None``: the list of agents.
    """
    page = "home" if agent_id is None else f"{agent_id}/edit"
    return _allowed(f"{my_domain}{_SETUP}{page}")


class AgentLink(BaseOperatorLink):
    """Leads from a task to its agent in Salesforce. Shown once the task knows its agent."""

    name = "Agentforce agent"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the URL, or ``""`` to show no link. Never raises.

        Airflow 3 asks in the task's process, when it ends; Airflow 2 asks in the webserver.
        """
        try:
            found = getattr(operator, "agent_url", "") or xcom_of_airflow_2(ti_key, LINK_XCOM)
            return _allowed(found)
        except Exception:  # noqa: BLE001 - a link is not worth an error page
            return ""


def _allowed(url: object) -> str:
    # Also checked when it is read: any task that can write an XCom could have put it there.
    match = re.fullmatch(_AGENT_PAGE, url) if isinstance(url, str) else None
    return str(url) if match and validation.is_salesforce(match.group(1)) else ""
