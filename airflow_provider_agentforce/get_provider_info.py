"""The provider's metadata for Airflow. Every Airflow process reads it, so this module imports nothing."""

from __future__ import annotations

from typing import Any

_PACKAGE = "airflow_provider_agentforce"

UI_FIELD_BEHAVIOUR: dict[str, Any] = {
    # The port is shown because the Test button of Airflow 3.3 fails for every connection without one.
    "hidden-fields": ["schema"],
    "relabeling": {"host": "My Domain URL", "login": "Consumer Key", "password": "Consumer Secret"},
    "placeholders": {
        "host": "https://acme.my.salesforce.com",
        "port": "443 (the Test button needs a port)",
        "login": "Consumer Key of the External Client App",
        "password": "Consumer Secret of the External Client App (not for jwt_bearer)",
    },
}

CONN_FIELDS: dict[str, Any] = {
    "agent_id": {
        "label": "Default Agent",
        "description": "The agent of tasks that name no other: its id (0Xx…) or API name.",
        "schema": {"type": ["string", "null"]},
    },
    "api_url": {
        "label": "Agent API URL",
        "description": "Leave it empty, except for Government Cloud: https://api.gov.salesforce.com",
        "schema": {"type": ["string", "null"], "format": "url"},
    },
    "auth": {
        "label": "Authentication",
        "description": "client_credentials (default), or jwt_bearer to act as a named user.",
        "schema": {"type": ["string", "null"]},
    },
    "username": {
        "label": "Username",
        "description": "For jwt_bearer: the Salesforce user to act as.",
        "schema": {"type": ["string", "null"]},
    },
    "private_key": {
        "label": "Private Key",
        "description": "For jwt_bearer: the RSA key, as PEM, that belongs to the app's certificate.",
        # Masked. The browser drops the line breaks of pasted text; the PEM is readable without them.
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "private_key_path": {
        "label": "Private Key Path",
        "description": "For jwt_bearer, instead of the key: a file on every worker that contains it.",
        "schema": {"type": ["string", "null"]},
    },
    "audience": {
        "label": "Audience",
        "description": (
            "For jwt_bearer. Default: https://test.salesforce.com for a sandbox, else "
            "https://login.salesforce.com. My Domain also works."
        ),
        "schema": {"type": ["string", "null"], "format": "url"},
    },
    "timeout": {
        "label": "Timeout (seconds)",
        "description": (
            "For a whole call. Salesforce itself gives up after 120 s; stay above that. Default: 130."
        ),
        # The form knows no exclusiveMinimum.
        "schema": {"type": ["number", "null"], "minimum": 1, "maximum": 3600},
    },
    "max_concurrent_sessions": {
        "label": "Max Concurrent Sessions",
        "description": "Sessions that one task process may have open at once. Default: 50.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "max_sessions_per_hour": {
        "label": "Max Sessions per Hour",
        "description": "Sessions that one task process may start in an hour. Default: 1000.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "max_messages_per_session": {
        "label": "Max Messages per Session",
        "description": "A message over this limit is refused before it is sent. Default: 100.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "limits_conn_id": {
        "label": "Limits Connection",
        "description": "A redis connection through which all workers share both limits. Default: none.",
        "schema": {"type": ["string", "null"]},
    },
    "share_token": {
        "label": "Share Token",
        "description": "Let all tasks of a machine use one login: an encrypted file keeps the access token.",
        "schema": {"type": ["boolean", "null"]},
    },
}

CONFIG: dict[str, Any] = {
    "agentforce": {
        "description": "Settings of the Salesforce Agentforce provider.",
        "options": {
            "capture_content": {
                "description": (
                    "Put the texts of messages and answers into OpenTelemetry spans "
                    "(``gen_ai.input.messages``, ``gen_ai.output.messages``). Nothing is masked there."
                ),
                "version_added": "0.1.0",
                "type": "boolean",
                "example": "True",
                "default": "False",
            },
        },
    },
}


CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "agentforce",
    "hook-class-name": f"{_PACKAGE}.hooks.agentforce.AgentforceHook",
    "hook-name": "Salesforce Agentforce",
    "ui-field-behaviour": UI_FIELD_BEHAVIOUR,
    "conn-fields": CONN_FIELDS,
}

_OPERATORS = (
    "agent_tests",
    "batch",
    "conversation",
    "conversation_tests",
    "feedback",
    "message",
    "session",
    "session_trace",
    "write_records",
)
_TRIGGERS = ("agent_published", "agent_tests", "pause", "session_trace")
_LINKS = ("agent.AgentLink", "page.BatchLink", "page.ConversationLink")
_SERVICE = {"integration-name": "Salesforce Agentforce"}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-agentforce",
        "name": "Salesforce Agentforce",
        "description": "Talk to a deployed Salesforce Agentforce agent through the Agent API.",
        "integrations": [
            {
                **_SERVICE,
                "external-doc-url": "https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api.html",
                "tags": ["service"],
            }
        ],
        "operators": [
            {**_SERVICE, "python-modules": [f"{_PACKAGE}.operators.{name}" for name in _OPERATORS]}
        ],
        "sensors": [{**_SERVICE, "python-modules": [f"{_PACKAGE}.sensors.agent_tests"]}],
        "triggers": [{**_SERVICE, "python-modules": [f"{_PACKAGE}.triggers.{name}" for name in _TRIGGERS]}],
        "hooks": [{**_SERVICE, "python-modules": [f"{_PACKAGE}.hooks.agentforce"]}],
        "task-decorators": [
            {"name": "agentforce", "class-name": f"{_PACKAGE}.decorators.agentforce.agentforce_task"}
        ],
        "extra-links": [f"{_PACKAGE}.links.{name}" for name in _LINKS],
        # Airflow 3.2 and later.
        "cli": [f"{_PACKAGE}.cli.definition.get_agentforce_cli_commands"],
        "config": CONFIG,
        "connection-types": [CONNECTION_TYPE],
    }
