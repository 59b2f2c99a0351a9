"""Resources that the org's own host serves, in addition to the Agent API."""

from __future__ import annotations

from airflow_provider_agentforce.client.executor import RequestExecutor


class OrgResource:
    """A kind of resource of an org. Methods raise :class:`.AgentforceError` if the org or the network fails.

    :param host: the org's My Domain.
    :param executor: carries out the calls.
    """

    def __init__(self, host: str, executor: RequestExecutor) -> None:
        self._host = host
        self._executor = executor
