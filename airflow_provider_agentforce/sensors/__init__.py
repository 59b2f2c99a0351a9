"""The sensors: they wait for something in the org that something else started.

A sensor polls the org with the client of its connection, in the worker or, if it is deferrable, through a
trigger of ``triggers``, and pushes the result to XCom.
"""

from airflow_provider_agentforce.sensors.agent_tests import AgentTestSensor

__all__ = ["AgentTestSensor"]
