"""What the org's own host serves, beside the Agent API."""

from __future__ import annotations

from airflow_provider_agentforce.client.executor import RequestExecutor


class OrgResource:
    """One kind of things of an org. Methods raise :class:`.AgentforceError` for what org or network do.

    :param host: the org's My Domain.
    :param executor: carries out the calls.
    """

    def __init__(self, host: str, executor: RequestExecutor) -> None:
        self._host = host
        self._executor = executor
