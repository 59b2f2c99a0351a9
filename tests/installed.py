"""Which Airflow there is: tests of what differs between them have a value for each."""

from importlib.metadata import version

from packaging.version import Version

_RELEASE = Version(version("apache-airflow")).release
# "2.11" stands for all that have no task state store, "3.3" for all that have no loops.
AIRFLOW = "3.4" if _RELEASE >= (3, 4) else "3.3" if _RELEASE >= (3, 3) else "2.11"
