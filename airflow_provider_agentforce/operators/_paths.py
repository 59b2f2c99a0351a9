"""Files and folders that a Dag's author names."""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_agentforce._compat import AirflowNotFoundException, object_storage_path
from airflow_provider_agentforce.exceptions import AgentforceInputError

_PACKAGES = {
    "s3": "apache-airflow-providers-amazon[s3fs]",
    "gs": "apache-airflow-providers-google",
    "abfs": "apache-airflow-providers-microsoft-azure",
}
_URI = re.compile(r"/|file:///|(?!file:)[a-z0-9+.-]+://", re.IGNORECASE)


def path_of(given: Any, field: str) -> Any:
    """Return Airflow's path object for a URI.

    :param field: what an error calls it.
    :raises AgentforceInputError: it is no URI, or nothing here can open it.
    """
    uri = str(given)
    if not _URI.match(uri):
        listed = field == "records" and uri.lstrip().startswith("[")
        raise AgentforceInputError(
            f"{field} must be a URI such as s3://bucket/accounts or file:///data/accounts, "
            f"but is {uri!r:.100}."
            f"{' To pass on what a task returned, give its .output, not a template.' if listed else ''}"
        )
    try:
        return object_storage_path(given)
    except (ValueError, ImportError, AirflowNotFoundException) as error:
        package = _PACKAGES.get(uri.partition(":")[0].lower())
        needs = f" It needs the package {package}." if package else ""
        raise AgentforceInputError(f"{field}: {uri!r:.100} cannot be used: {error!s:.200}.{needs}") from None
