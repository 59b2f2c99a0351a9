"""Imports and builds what every run of a Dag needs, in the process that the runs are forked from."""

from __future__ import annotations

import contextlib
import gc
import importlib

from sqlalchemy.orm import configure_mappers

# What is loaded here stays: a collection would visit all of it, here and in each of the processes.
gc.disable()
with contextlib.suppress(ImportError, AttributeError):
    importlib.import_module("airflow.cli.commands.dag_command")
    importlib.import_module("airflow_provider_agentforce.operators")
    importlib.import_module("airflow.models").import_all_models()
    configure_mappers()
    # `airflow dags test` of Airflow 3 talks to its own API server, which is built at its first request.
    supervisor = importlib.import_module("airflow.sdk.execution_time.supervisor")
    supervisor.in_process_api_server().app._cadwyn_initialize()
    # Of the person.
    importlib.import_module("airflow.api_fastapi.app")
    importlib.import_module("airflow.api_fastapi.core_api.routes.public")
    importlib.import_module("airflow.api_fastapi.core_api.routes.ui")
gc.freeze()
gc.enable()
