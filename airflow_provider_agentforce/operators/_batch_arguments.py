"""Checks of a batch's arguments when the Dag is parsed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.exceptions import AgentforceInputError, shown
from airflow_provider_agentforce.operators._arguments import check_choice, may_change
from airflow_provider_agentforce.operators._paths import check_literal_uri
from airflow_provider_agentforce.operators._rendering import has_reference, is_reference, leaves

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.sample import Sample

# The output of a task becomes this in an f-string.
_OUTPUT_IN_TEXT = "{{ task_instance.xcom_pull("


def check_combinations(
    *,
    message: Any,
    result_path: Any,
    continues: bool,
    only_plans: bool,
    samples: bool,
    agreement_share: float,
    min_agreement: float | None,
) -> None:
    """Refuse arguments that exclude each other."""
    needed = "must be given; only a task with continue_from needs none."
    refusals = {
        f"message {needed}": message is None and not continues,
        f"result_path {needed}": result_path is None and not continues,
        "sample cannot be combined with continue_from, which asks what the sample has left.": (
            samples and continues
        ),
        "sample cannot be combined with dry_run, which plans all records, and sends nothing.": (
            samples and only_plans
        ),
        "dry_run cannot be combined with continue_from. Plan the batch before the sample.": (
            only_plans and continues
        ),
        "min_agreement needs agreement_share, the share of the records that is asked a second time.": (
            min_agreement is not None and not agreement_share
        ),
    }
    for words, refused in refusals.items():
        if refused:
            raise AgentforceInputError(words)


def check_records(given: Any) -> None:
    """Refuse records in an unknown form, and items of a list that are not records."""
    if given is None or is_reference(given) or names_a_file(given):
        return
    if not isinstance(given, list | tuple):
        if not (isinstance(given, Iterator) or callable(given)):
            raise validation.unusable_records(given)
        return
    for position, record in enumerate(given):
        if not is_reference(record):
            validation.record(record, position)
            if any(isinstance(one, str) and _OUTPUT_IN_TEXT in one for one in leaves(record)):
                raise AgentforceInputError(
                    f"records[{position}] contains the output of a task within a text, and a record is not "
                    "rendered. Make that output a separate value, and write the text in message."
                )


def check_continue_from(given: Any) -> None:
    """Refuse a value that is neither a manifest nor a URI."""
    if not isinstance(given, Mapping):
        check_literal_uri(given, "continue_from")
    elif not isinstance(given.get("result_path"), str):
        raise AgentforceInputError(
            "continue_from must be what a ConversationBatchOperator with a sample has returned; it has no "
            "result_path."
        )


def copied(given: Any) -> Any:
    """Return a copy of a text: ``render_template`` recognizes a field by the identity of its value."""
    return f"{given} "[:-1] if isinstance(given, str) else given


def no_function(given: Any) -> Any:
    """Return *given*, or ``None`` if it is a function."""
    return None if callable(given) else copied(given)


def check_message(message: Any) -> None:
    """Refuse templates that cannot be the messages of each record."""
    if message is None:
        return
    texts = message if isinstance(message, list | tuple) else [message]
    if not texts:
        raise AgentforceInputError("message is empty. Give at least one template.")
    for text in texts:
        if not may_change(text):
            validation.message_text(text, "message")


def name_of_field(key: Any) -> str | None:
    if key is not None and (not isinstance(key, str) or not key):
        raise AgentforceInputError(f"key must be the name of a field, but is {shown(key)}.")
    return key


def is_data(records: Any) -> bool:
    """Return whether *records* is data from the Dag's author, and not a value that Airflow resolves."""
    return (isinstance(records, list | tuple | Iterator) or callable(records)) and not has_reference(records)


def formats(given: Any) -> tuple[str, ...]:
    listed = given if isinstance(given, list | tuple) else [given]
    return tuple(check_choice("output_formats", form, "csv", "jsonl", "parquet") for form in listed)


def rate(given: Any) -> float | None:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if given is not None and not (number and math.isfinite(given) and given >= 0):
        raise AgentforceInputError(
            f"credits_per_message must be a number from 0, or None, but is {shown(given)}."
        )
    return given  # type: ignore[no-any-return]


def sample_of(given: Any) -> Sample | None:
    if given is None:
        return None
    from airflow_provider_agentforce.batch import sample  # noqa: PLC0415 - only if one is given

    return sample.sample_of(given)


def names_a_file(given: Any) -> bool:
    return isinstance(given, str) or hasattr(given, "joinpath")
