"""The records of an org: queries, descriptions of objects, and writes of many records at once.

Sources: https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/resources_query.htm, and
https://developer.salesforce.com/docs/platform/api-rest/guide/resources-composite-sobjects-collections-update.html.
Writing a record by its id or an external id has the same result however often it is repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tenacity

from airflow_provider_agentforce.client import responses, validation
from airflow_provider_agentforce.client.answer_reader import JsonReader
from airflow_provider_agentforce.client.api_requests import (
    DATA_PATH,
    MAX_PAGE,
    ApiRequest,
    HttpCall,
    OrgRead,
    QueryRequest,
    post,
    query_url,
)
from airflow_provider_agentforce.client.delivery_policy import Operation
from airflow_provider_agentforce.client.error_words import words_of
from airflow_provider_agentforce.client.org_resource import OrgResource
from airflow_provider_agentforce.client.sobjects import SObjectInfo
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    AgentforceRequestError,
    AgentforceTransientError,
    one_line,
)

MOST_PER_CALL = 200
_LOCKED = "UNABLE_TO_LOCK_ROW"
# The answer to a call with a value that its field does not have, such as a word for a number.
_UNREADABLE = "JSON_PARSER_ERROR"
_MAINTENANCE = "INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE"
_CURSOR_GONE = "INVALID_QUERY_LOCATOR"
_LOCK_ATTEMPTS = 5
# Apex names the error of its trigger at the end of a long text.
_LONGEST_MESSAGE = 2000
_LONGEST_ADDRESS = 16_384
_NEXT_PAGE = re.compile(r"/services/data/v[0-9]{2,3}\.[0-9]/query/[A-Za-z0-9_-]{1,200}")


@dataclass(frozen=True)
class WriteResult:
    """The result of writing one record.

    :param record_id: its id; ``None`` for a record that was not written and has none.
    :param code: why it was not written, such as ``STRING_TOO_LONG``; ``""`` if it was.
    :param message: the same in the org's words.
    :param fields: the fields that the org names.
    :param locked: another process had locked the record, or one that an automation of the org writes.
    """

    record_id: str | None
    code: str = ""
    message: str = ""
    fields: tuple[str, ...] = ()
    locked: bool = False

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> WriteResult:
        """Read the result of one record."""
        record_id = reply.get("id")
        known = record_id if isinstance(record_id, str) else None
        if reply.get("success") is True:
            return cls(known)
        listed = reply.get("errors")
        errors = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        first = errors[0] if errors else {}
        code, named = str(first.get("statusCode") or "UNKNOWN_ERROR"), first.get("fields")
        message = "; ".join(filter(None, map(words_of, errors))) or "The org gives no reason."
        return cls(
            known,
            code,
            one_line(message, _LONGEST_MESSAGE),
            tuple(map(str, named)) if isinstance(named, list) else (),
            # Apex wraps the error for a lock that its own write meets.
            locked=_LOCKED in code or _LOCKED in message,
        )

    @property
    def written(self) -> bool:
        """Whether the record was written."""
        return not self.code


@dataclass(frozen=True, kw_only=True)
class _DescribeRequest(OrgRead):
    """The description of an object."""

    doing = "Looking up the object's fields"
    max_body = MAX_PAGE

    def read(self, reader: JsonReader) -> SObjectInfo:
        return SObjectInfo.from_describe(responses.as_object(reader.value))


@dataclass(frozen=True, kw_only=True)
class _WriteRequest(ApiRequest):
    """``PATCH …/composite/sobjects`` of at most 200 records; one that fails does not undo the others."""

    operation = Operation.WRITE
    doing = "Writing records"
    url: str
    rows: Sequence[Mapping[str, Any]]

    def call(self, api_url: str) -> HttpCall:  # noqa: ARG002 - the org's own host has the records
        return replace(post(self.url, {"allOrNone": False, "records": self.rows}), method="PATCH")

    def read(self, reader: JsonReader) -> list[WriteResult]:
        reply = reader.value
        if not isinstance(reply, list) or len(reply) != len(self.rows):
            raise responses.UnreadableReplyError("JSON, but not one result for each record")
        return [WriteResult.from_reply(one if isinstance(one, dict) else {}) for one in reply]


class Records(OrgResource):
    """The records of an org."""

    def query(self, soql: str) -> Iterator[dict[str, Any]]:
        """Yield the records that *soql* finds, as the org's pages of 2,000 arrive.

        A record is a dict of the selected fields: numbers, booleans, strings and ``None``; a date is a string
        in the org's format. A related record (``Owner.Name``) is a nested dict, and a sub-select a list of
        dicts. The first page is requested at once, the others when they are needed.

        :raises AgentforceInputError: *soql* is not a query for records, or is too long.
        :raises AgentforceRequestError: the org does not understand or allow it.
        """
        url = query_url(self._host, validation.soql(soql))
        if len(url) > _LONGEST_ADDRESS:
            raise AgentforceInputError(
                f"soql results in a URL of {len(url):,} characters; the org accepts {_LONGEST_ADDRESS:,}.",
                hint="Split the query, for instance by ids.",
            )
        return self._all(self._page(url))

    def describe(self, sobject: str) -> SObjectInfo:
        """Return the org's description of an object and its fields.

        :param sobject: API name, such as ``Account``.
        :raises AgentforceInputError: there is no such object, or the user may not see it.
        """
        name = validation.sobject(sobject)
        request = _DescribeRequest(url=f"{self._host}{DATA_PATH}/sobjects/{name}/describe")
        try:
            found: SObjectInfo = self._executor.execute(request).value
        except AgentforceRequestError as error:
            if error.status != 404:  # noqa: PLR2004
                raise
            raise AgentforceInputError(
                f"sobject: {self._host} has no object {name} that the user (Run As, or username) may see.",
                hint="Give its API name; one of your own objects ends in __c.",
            ) from error
        return found

    def write(
        self,
        sobject: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        external_id: str | None = None,
        results: dict[int, WriteResult] | None = None,
    ) -> list[WriteResult]:
        """Write records, and return the result of each, in the order of *rows*.

        Records that another process has locked are tried again for a while. After an error some of the
        records may be written; writing them again does no harm.

        :param sobject: API name of the object.
        :param rows: values by the names of fields, each with ``Id``, or with the field *external_id*.
        :param external_id: upsert by this field: a record that does not exist is created.
        :param results: filled with the result of each row, by its position, as soon as the org gives it.
        :raises ValueError: more than 200 rows.
        :raises AgentforceTransientError: the org is under maintenance, or cannot be reached. Maintenance that
            begins during the call is in the results: see :func:`check_writable`.
        """
        if len(rows) > MOST_PER_CALL:
            raise ValueError(f"At most {MOST_PER_CALL} records are written at once, not {len(rows)}.")
        path = f"/{sobject}/{external_id}" if external_id else ""
        url = f"{self._host}{DATA_PATH}/composite/sobjects{path}"
        typed = [{"attributes": {"type": sobject}, **row} for row in rows]
        known = {} if results is None else results
        # The last results count.
        tenacity.Retrying(
            retry=tenacity.retry_if_result(bool),
            wait=self._executor.timing.back_off,
            stop=tenacity.stop_after_attempt(_LOCK_ATTEMPTS),
            sleep=self._executor.deadline.sleep,
            retry_error_callback=lambda _: True,
        )(self._attempt, url, typed, known)
        return [known[at] for at in range(len(rows))]

    def _attempt(self, url: str, rows: Sequence[dict[str, Any]], results: dict[int, WriteResult]) -> bool:
        """Write the records that have no result or were locked; return whether some are locked now."""
        left = {at: row for at, row in enumerate(rows) if at not in results or results[at].locked}
        self._write(url, left, results)
        return any(one.locked for one in results.values())

    def _write(
        self, url: str, rows: Mapping[int, Mapping[str, Any]], results: dict[int, WriteResult]
    ) -> None:
        """Write records; if the org cannot read a value of one, find that one by halving the call."""
        request = _WriteRequest(url=url, rows=list(rows.values()))
        try:
            found: list[WriteResult] = self._executor.execute(request).value
        except AgentforceRequestError as error:
            said = responses.error(error.body.encode())
            if _MAINTENANCE in error.what:
                raise _read_only(said.text) from error
            if _UNREADABLE not in error.what:
                raise
            if len(rows) > 1:
                for half in _halves(rows):
                    self._write(url, half, results)
                if len(rows) == MOST_PER_CALL and all(results[at].code == _UNREADABLE for at in rows):
                    raise
                return
            found = [WriteResult(None, _UNREADABLE, one_line(said.message, _LONGEST_MESSAGE))]
        redact = self._executor.redactor.redact
        shown = (replace(one, message=redact(one.message)) for one in found)
        results.update(zip(rows, shown, strict=True))

    def _all(self, page: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the records of *page* and of the following pages."""
        while True:
            for record in page["records"]:
                yield self._plain(record)
            if page.get("done") is not False:
                return
            page = self._next(page)

    def _next(self, page: Mapping[str, Any]) -> dict[str, Any]:
        where = page.get("nextRecordsUrl")
        if not isinstance(where, str) or not _NEXT_PAGE.fullmatch(where):
            raise AgentforceTransientError(
                "Querying records failed: the org does not say where its next page is.", operation="read"
            )
        try:
            return self._page(f"{self._host}{where}")
        except AgentforceError as error:
            if _CURSOR_GONE not in error.what:
                raise
            raise AgentforceTransientError(
                "Querying records failed: the org dropped the query between two pages.",
                hint="It keeps few queries per user open at once, and for two days at most. Query again.",
                operation=error.operation,
                status=error.status,
                body=error.body,
            ) from error

    def _page(self, url: str) -> dict[str, Any]:
        page: dict[str, Any] = self._executor.execute(QueryRequest(url=url)).value
        return page

    def _plain(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._value(value) for name, value in record.items() if name != "attributes"}

    def _value(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("records"), list) and "done" in value:
            return list(self._all(value))
        return self._plain(value)


def _halves(rows: Mapping[int, Mapping[str, Any]]) -> Iterator[Mapping[int, Mapping[str, Any]]]:
    items = list(rows.items())
    half = len(items) // 2
    yield dict(items[:half])
    yield dict(items[half:])


def check_writable(results: Iterable[WriteResult]) -> None:
    """Raise an error if records were not written because the org is under maintenance.

    :raises AgentforceTransientError: some were not.
    """
    for one in results:
        if one.code == _MAINTENANCE:
            raise _read_only(f"{one.code}: {one.message}")


def _read_only(said: str) -> AgentforceTransientError:
    return AgentforceTransientError(
        f"Writing records failed: {said.rstrip('.')}.",
        hint="The org is read-only for now. Write the remaining records later.",
        operation="write",
    )
