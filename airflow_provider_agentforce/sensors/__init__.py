"""The sensors: they wait for something in the org that another has begun.

A sensor asks the org with the client of its connection, in the worker or, deferrable, by a trigger of
``triggers``, and gives what it finds to XCom.
"""

from airflow_provider_agentforce.sensors.agent_tests import AgentTestSensor

__all__ = ["AgentTestSensor"]
