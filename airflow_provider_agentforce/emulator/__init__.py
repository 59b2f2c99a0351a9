"""A stand-in Salesforce org for people without one: tests, demos and first steps.

It is written from public sources, which its modules name, and imports nothing from the client, so that one
misreading cannot hide in both. Needs the ``[emulator]`` extra. A request goes from the ``server`` to the
``app``, which applies the programmed fault and passes it to the handler of its API: ``oauth``, ``agent_api``,
``data_api``, ``testing_api``, ``session_trace`` or ``trace``. The handler changes the ``org`` and gets the
text of the answer from the ``script``. The answer goes back the same way, complete or broken.
"""

from airflow_provider_agentforce.emulator.emulator import Emulator
from airflow_provider_agentforce.emulator.faults import Fault, Hold
from airflow_provider_agentforce.emulator.messages import ScriptError, ScriptTurn
from airflow_provider_agentforce.emulator.models import Agent, RequestRecord, SessionRecord, TurnRecord
from airflow_provider_agentforce.emulator.org import EmulatorSettings
from airflow_provider_agentforce.emulator.sobjects import SObject, SObjectField

__all__ = [
    "Agent",
    "Emulator",
    "EmulatorSettings",
    "Fault",
    "Hold",
    "RequestRecord",
    "SObject",
    "SObjectField",
    "ScriptError",
    "ScriptTurn",
    "SessionRecord",
    "TurnRecord",
]
