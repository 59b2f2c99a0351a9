"""A stand-in Salesforce org for people without one: tests, demos and first steps.

It is written from the published documents of the API alone and shares no code with the client, so that one
misreading cannot hide in both. Needs the ``[emulator]`` extra.

A request goes from the ``server`` to the ``app``, which applies the programmed fault and gives it to one of
the ``endpoints``. That changes the ``org``, asks the script for the words of the answer, and the answer
goes back.
"""

from airflow_provider_agentforce.emulator.emulator import Emulator
from airflow_provider_agentforce.emulator.faults import Fault, Hold
from airflow_provider_agentforce.emulator.messages import ScriptError, ScriptTurn
from airflow_provider_agentforce.emulator.models import Agent, RequestRecord, SessionRecord, TurnRecord
from airflow_provider_agentforce.emulator.settings import EmulatorSettings

__all__ = [
    "Agent",
    "Emulator",
    "EmulatorSettings",
    "Fault",
    "Hold",
    "RequestRecord",
    "ScriptError",
    "ScriptTurn",
    "SessionRecord",
    "TurnRecord",
]
