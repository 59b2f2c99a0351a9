"""What a task reads and writes, for the OpenLineage provider, which must be installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from inspect import signature
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors.base import OperatorLineage
    from airflow.providers.openlineage.extractors.manager import ExtractorManager


def operator_lineage(
    operator: Any, task_instance: Any, inputs: Iterable[str], outputs: Iterable[str], query: str | None = None
) -> OperatorLineage:
    """Return the lineage of a task, with its own inlets and outlets.

    :param task_instance: ``None`` when the task begins.
    :param inputs: URIs of what it reads.
    :param outputs: URIs of what it writes.
    :param query: SOQL query of its records, if any.
    """
    from airflow.providers.openlineage.extractors.base import OperatorLineage  # noqa: PLC0415
    from airflow.providers.openlineage.extractors.manager import ExtractorManager  # noqa: PLC0415
    from openlineage.client.facet_v2 import sql_job  # noqa: PLC0415

    manager = ExtractorManager()
    lineage = OperatorLineage(
        inputs=_datasets(manager, inputs),
        outputs=_datasets(manager, outputs),
        job_facets={} if query is None else {"sql": sql_job.SQLJobFacet(query=query)},
    )
    if lineage.inputs or lineage.outputs:
        # Otherwise the provider adds them itself. Older ones do not take the task instance.
        add = manager.extract_inlets_and_outlets
        add(*(lineage, operator, task_instance)[: len(signature(add).parameters)])
    return lineage


def _datasets(manager: ExtractorManager, uris: Iterable[str]) -> list[Any]:
    """Return the datasets of URIs, with the names of Airflow's assets where the provider can convert them."""
    from airflow.providers.common.compat.assets import Asset  # noqa: PLC0415

    found = []
    for uri in map(_without_user, dict.fromkeys(uris)):
        named = None
        with contextlib.suppress(ValueError):  # not every URI can be an asset's
            named = manager.convert_to_ol_dataset(Asset(uri))
        found.append(named or manager.convert_to_ol_dataset_from_object_storage_uri(uri))
    return [dataset for dataset in found if dataset is not None]


def _without_user(uri: str) -> str:
    """Return a URI without the Airflow connection in it, which is not part of a dataset's name."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
