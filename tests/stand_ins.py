"""What the operators use of Airflow's task instance and its task state store, and what a Dag calls."""

import gc
import json
import os
import uuid
from pathlib import Path

KILLED = 9


class TaskInstance:
    """One try of a task. Everything that it gives to XCom has to be JSON.

    :param breaks_after: how many XComs it takes before its database is away.
    :param names: such as ``run_id``, where they are not the usual ones.
    :ivar page: what it has left for its page in Airflow; not one of *xcoms*.
    :ivar pages_written: how often.
    """

    dag_id, run_id, task_id, map_index = "dag", "run", "task", -1

    def __init__(self, try_number=1, max_tries=0, breaks_after=None, **names):
        vars(self).update(names)
        self.id = uuid.UUID(int=try_number)
        self.try_number, self.max_tries = try_number, max_tries
        self.breaks_after = breaks_after
        self.xcoms = {}
        self.page = None
        self.pages_written = 0

    def xcom_push(self, key, value):
        if key == "agentforce_page":
            self.page = json.loads(json.dumps(value))
            self.pages_written += 1
            return
        if len(self.xcoms) == self.breaks_after:
            raise RuntimeError("the database is away")
        json.dumps(value)
        self.xcoms[key] = value


class StateStore:
    """Keeps values as Airflow does, as JSON; can fail, and can end its task right after a write.

    :param path: a file to keep the values in, for tasks that are processes; default: in memory.
    :ivar fails: ``get`` or ``set``: the database is away; ``forgets``: it loses what it is given.
    :ivar ends_at: the number of the write after which *end* is called.
    """

    def __init__(self, end=None, path=None):
        self._end, self._path = end, path
        self.fails = self.ends_at = None
        self.written = 0
        self.values = {}

    @property
    def values(self):
        return json.loads(self._path.read_text() if self._path else self._text)

    @values.setter
    def values(self, values):
        self._text = json.dumps(values)
        if self._path:
            self._path.write_text(self._text)

    def get(self, key, default=None):
        if self.fails == "get":
            raise RuntimeError("the database is away")
        return self.values.get(key, default)

    def set(self, key, value, **_):
        if self.fails == "set":
            raise RuntimeError("the database is away")
        if json.loads(json.dumps(value)) != value:
            raise TypeError("Airflow's store takes JSON values alone, and no tuples")
        if self.fails != "forgets":
            self.values = {**self.values, key: value}
        self.written += 1
        if self.written == self.ends_at:
            self._end()

    def delete(self, key):
        self.values = {name: value for name, value in self.values.items() if name != key}


class Task:
    """One task instance with its tries; every try is a new operator, as in Airflow.

    :ivar keeps: whether this Airflow has a task state store.
    :ivar page: what the last process left for its page.
    """

    folder: Path

    @property
    def keeps(self):
        # Airflow reads AIRFLOW_HOME when it is imported, which the tests set after this module is.
        from airflow_provider_agentforce._compat import can_ask  # noqa: PLC0415

        return can_ask()

    def __init__(self, kind, **arguments):
        self.kind, self.arguments = kind, arguments
        self.store = StateStore(lambda: os._exit(KILLED), self.folder / f"{uuid.uuid4()}.json")
        self.try_number, self.max_tries = 0, 3
        self.xcoms = {}
        self.page = None

    def clear(self):
        self.max_tries = self.try_number + 3

    def run_killed(self, write):
        """Run a try whose process is gone right after its *write*-th record."""
        self.store.ends_at = write
        assert self.is_killed(), "the try ended before that write"
        self.store.ends_at = None

    def is_killed(self, prepare=lambda: None, again=None):
        """Run a try in a process, and tell whether something has ended that with ``KILLED``.

        :param prepare: is called in the process.
        :param again: runs the rest of the present try in the place of a new one.
        """
        child = os.fork()
        if child == 0:
            gc.freeze()  # a collection would copy every page of the objects of all tests
            try:
                prepare()
                (again or self.run)()
            finally:
                os._exit(0)
        self.try_number += again is None
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == KILLED

    def run(self, **changed):
        self.try_number += 1
        ti = TaskInstance(self.try_number, self.max_tries)
        operator = self.kind(task_id="task", **{**self.arguments, **changed})
        try:
            return operator.execute(self._context(ti))
        finally:
            self.xcoms, self.page = ti.xcoms, ti.page

    def resume(self, wait, event=None, *, error=None, **changed):
        """Go on in the same try after a *wait* that the task has raised, in another process as it were.

        :param error: why the trigger gave no event, as Airflow says it.
        """
        method, given = (
            (wait.method_name, {"event": event}) if error is None else ("__fail__", {"error": error})
        )
        ti = TaskInstance(self.try_number, self.max_tries)
        operator = self.kind(task_id="task", **{**self.arguments, **changed})
        try:
            return operator.resume_execution(method, given, self._context(ti))
        finally:
            self.xcoms, self.page = ti.xcoms, ti.page

    def _context(self, ti):
        return {"ti": ti, **({"task_state_store": self.store} if self.keeps else {})}


class RequiredActions:
    """What Airflow's supervisor takes the questions of a task with.

    :ivar before: is called before a question is there, and *then* when it is.
    """

    def __init__(self, folder):
        self._file = folder / "asked"  # also for tries that are processes
        self.before = self.then = None

    def send(self, msg):
        if msg.type != "CreateHITLDetailPayload":
            return
        if self.before is not None:
            self.before()
        with self._file.open("a") as file:
            file.write(msg.model_dump_json() + "\n")
        if self.then is not None:
            self.then()

    @property
    def asked(self):
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [json.loads(line) for line in lines]

    def forget(self):
        self._file.unlink(missing_ok=True)


def chosen(option, **fields):
    """Return what Airflow resumes a task with when a person has decided."""
    ada = {"id": "1", "name": "Ada"}
    return {"chosen_options": [option], "params_input": fields, "responded_by_user": ada}


def ask_with_a_hook(text):
    """Hold a conversation with the hook: here, where other processes find it by its name."""
    from airflow_provider_agentforce.hooks.agentforce import AgentforceHook  # noqa: PLC0415 - needs Airflow

    with AgentforceHook().conversation() as chat:
        return chat.send(text).text


def texts(org):
    """Return what an org has received, and whether its agent acted on it."""
    return [(turn.text, turn.applied) for one in org.sessions.values() for turn in one.turns]
