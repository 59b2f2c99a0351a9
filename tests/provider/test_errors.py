"""What an error says survives copies and pickles, and a final one stays final in another process."""

from __future__ import annotations

import contextlib
import copy
import inspect
import multiprocessing
import pickle
import threading
import traceback
from concurrent.futures import ProcessPoolExecutor

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_agentforce import exceptions
from airflow_provider_agentforce.client import Turn
from airflow_provider_agentforce.hooks import errors
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
from airflow_provider_agentforce.hooks.errors import airflow_errors

# The child uses nothing of the emulator's thread.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

FIELDS = {
    "hint": "Look.",
    "operation": "send",
    "status": 503,
    "applied": None,
    "retry_after": 2.5,
    "request_id": "r",
    "session_id": "s",
    "external_session_key": "k",
    "body": "b",
}
MORE = {
    "turn": Turn("s", 1, None, "half", "failed"),
    "problems": ("a: b",),
    "manifest": {"records": 1},
}
KINDS = [
    kind
    for _, kind in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(kind, exceptions.AgentforceError)
]
WAYS = [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]  # noqa: S301


class OutOfStockError(exceptions.AgentFailedError):
    """A user's own, with another ``__init__``."""

    def __init__(self, item):
        super().__init__(f"{item} is not there.", applied=True, operation="send")
        self.item = item


class LockedError(exceptions.AgentFailedError):
    """A user's own, with a slot, and with a field that no process can give to another."""

    __slots__ = ("shelf",)

    def __init__(self, item):
        super().__init__(f"{item} is locked.", applied=True, operation="send")
        self.shelf = 7
        self.lock = threading.Lock()


def made(kind):
    if kind in (OutOfStockError, LockedError):
        return kind("A bolt")
    parameters = inspect.signature(kind.__init__).parameters
    return kind("It failed.", **FIELDS, **{name: value for name, value in MORE.items() if name in parameters})


def raised(error, *, finally_=False):
    """Return the error as it is caught, with a cause and a traceback."""
    try:
        with airflow_errors() if finally_ else contextlib.nullcontext():
            raise error from KeyError("token")
    except exceptions.AgentforceError as caught:
        return caught


def shown(error):
    fields = {name: value for name, value in vars(error).items() if name != "_cause"}
    return type(error), error.args, str(error), repr(error), fields, error.retryable, error.cause


@pytest.mark.parametrize("way", WAYS, ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("kind", [*KINDS, OutOfStockError])
class TestEveryClass:
    def test_copies_say_the_same(self, kind, way):
        error = raised(made(kind))
        assert shown(way(error)) == shown(error)
        assert error.cause == "KeyError: 'token'"
        assert shown(way(way(error))) == shown(error)

    def test_a_final_error_stays_final(self, kind, way):
        error = raised(made(kind).replaced(retryable=False), finally_=True)
        again = way(error)
        assert isinstance(again, AirflowFailException)
        assert isinstance(again, kind)
        assert type(again) is type(error)
        assert shown(again) == shown(error)


@pytest.mark.parametrize("way", WAYS, ids=["copy", "deepcopy", "pickle"])
def test_slots_and_fields_that_cannot_be_copied_take_nothing_from_an_error(way):
    again = way(raised(LockedError("A bolt"), finally_=True))
    assert isinstance(again, (AirflowFailException, LockedError))
    assert (str(again), again.shelf) == (str(LockedError("A bolt")), 7)
    assert "lock" in repr(again.lock)


def test_the_client_s_error_is_left_as_it_was():
    error = exceptions.DeliveryUnknownError("It is lost.", turn=MORE["turn"])
    final = raised(error, finally_=True)
    assert type(error) is exceptions.DeliveryUnknownError
    assert (final.turn, str(final), repr(final.__cause__)) == (MORE["turn"], str(error), "KeyError('token')")
    assert "raised" in [frame.name for frame in traceback.extract_tb(final.__traceback__)]


def test_the_final_classes_are_found_by_name():
    for kind in KINDS:
        named = getattr(errors, kind.__name__)
        assert issubclass(named, (kind, AirflowFailException))
        assert (named.__module__, named.__qualname__) == (errors.__name__, kind.__name__)


def test_a_class_of_a_function_keeps_what_pickle_can_name():
    class LocalError(exceptions.DeliveryUnknownError):
        pass

    error = raised(LocalError("Lost.", **FIELDS), finally_=True)
    assert type(copy.copy(error)) is type(copy.deepcopy(error)) is type(error)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert isinstance(again, exceptions.DeliveryUnknownError)
    assert isinstance(again, AirflowFailException)
    assert str(again) == str(error)


def test_replaced_knows_its_fields():
    error = exceptions.RateLimitedError("Full.", retry_after=3)
    other = error.replaced(hint="Wait.", retryable=False, what="Over.")
    assert (str(other), other.retryable, error.retryable) == (
        "Over. The org asks to wait 3 s. Wait.",
        False,
        True,
    )
    with pytest.raises(TypeError, match="RateLimitedError has no field hnt"):
        error.replaced(hnt="")


def ask(session):
    AgentforceHook().send_message(session, "change it")


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_an_unknown_delivery_of_a_process_pool_ends_the_task(org, method):
    org.fail("send", status=504, after=True)
    session = AgentforceHook().start_session().to_dict()
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool, pytest.raises(AirflowFailException) as caught:
        pool.submit(ask, session).result()
    error = caught.value
    assert isinstance(error, exceptions.DeliveryUnknownError)
    assert (error.operation, error.status, error.applied, error.session_id) == (
        "send",
        504,
        None,
        session["session_id"],
    )
    assert org.applied("change it") == 1
