"""Files and folders in arguments."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from os import PathLike
from typing import Any

from airflow_provider_agentforce._compat import AirflowNotFoundException, object_storage_path
from airflow_provider_agentforce.exceptions import AgentforceInputError, looks_like_key, one_line, shown
from airflow_provider_agentforce.operators._arguments import may_change

_PACKAGES = {
    "s3": "apache-airflow-providers-amazon[s3fs]",
    "gs": "apache-airflow-providers-google",
    "abfs": "apache-airflow-providers-microsoft-azure",
}
_PATTERN = re.compile(r"[*?\[]")
_URI = re.compile(r"/|file:///|(?!file:)[a-z0-9+.-]+://", re.IGNORECASE)


def check_uri(uri: str, field: str) -> None:
    """Refuse a text that is not a URI.

    :param field: name of the argument, for errors.
    """
    if looks_like_key(uri):
        raise AgentforceInputError(f"{field} must be a URI, but contains a private key.")
    if re.search("[\0\ud800-\udfff]", uri):
        raise AgentforceInputError(f"{field} contains a character that no path can have: {shown(uri, 100)}.")
    if not _URI.match(uri):
        listed = field == "records" and uri.lstrip().startswith("[")
        raise AgentforceInputError(
            f"{field} must be a URI such as s3://bucket/accounts or file:///data/accounts, "
            f"but is {shown(uri, 100)}."
            f"{' To pass on what a task returned, give its .output, not a template.' if listed else ''}"
        )


def check_literal_uri(given: Any, field: str) -> None:
    """Refuse a value that is not a URI when the Dag is parsed, unless it is known only when the task runs."""
    if given is not None and not may_change(given):
        if isinstance(given, str | PathLike) or hasattr(given, "protocol"):
            check_uri(str(given), field)
        else:
            raise AgentforceInputError(f"{field} must be a URI, but is {shown(given)}.")


def path_of(given: Any, field: str) -> Any:
    """Return Airflow's path object for a URI.

    :param field: name of the argument, for errors.
    :raises AgentforceInputError: it is not a URI, or no installed file system can open it.
    """
    uri = str(given)
    check_uri(uri, field)
    try:
        return object_storage_path(given)
    except Exception as error:
        final = isinstance(error, ValueError | ImportError | AirflowNotFoundException)
        package = _PACKAGES.get(uri.partition(":")[0].lower())
        needs = f" It needs the package {package}." if package else ""
        raise AgentforceInputError(
            f"{field}: {shown(uri, 100)} cannot be used: {one_line(str(error), 200)}.{needs}",
            retryable=not final,
        ) from error


def files_of(given: Any, field: str) -> list[Any]:
    """Return the path objects of files that are named by URIs.

    :param given: a URI or a list of them; its last part may be a pattern, such as ``*.yaml``.
    :param field: name of the argument, for errors.
    :raises AgentforceInputError: a URI names no file.
    """
    uris = given if isinstance(given, list | tuple) else [given]
    found = [path for uri in uris for path in _files_at(str(uri), field)]
    if not found:
        raise AgentforceInputError(f"{field} is empty. Give at least one file.")
    return found


def _files_at(uri: str, field: str) -> list[Any]:
    folder, _, name = uri.rpartition("/")
    if not _PATTERN.search(name):
        path = path_of(uri, field)
        if not path.is_file():
            pattern = " It is a folder: add /*.yaml to it." if path.is_dir() else ""
            raise AgentforceInputError(f"{field}: there is no file {shown(uri, 200)}.{pattern}")
        return [path]
    inside = path_of(folder or "/", field)
    listed = list(inside.iterdir()) if inside.is_dir() else []
    found = sorted((path for path in listed if fnmatchcase(path.name, name)), key=lambda path: path.name)
    if not found:
        raise AgentforceInputError(f"{field}: no file matches {shown(uri, 200)}.")
    return found
