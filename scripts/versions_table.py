"""Show what ``make matrix`` ran last, a line for each pair of versions, and write it to docs/versions.md.

Exits with 1 when a pair was not run, or when something failed on it.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import generated

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from noxfile import PAIRS, result_folder  # noqa: E402 - a file of the checkout, not of a package

PAGE = ROOT / "docs" / "versions.md"
NOT_RUN = {"not run": {"worked": False, "missing": []}}
TITLES = ["Airflow", "Python", "example Dags that ran", "border tests", "not run"]


def main() -> int:
    """Write the table and return the exit status."""
    results = [result(airflow, python) for python, airflow, _ in PAIRS]
    table = generated.table(TITLES, [*map(row, results)])
    sys.stdout.write(table)
    return generated.write(PAGE, "versions", table) or int(any(failed(one) for one in results))


def result(airflow: str, python: str) -> dict[str, Any]:
    """Return what scripts/demo.py and pytest wrote on a pair."""
    path = result_folder(airflow, python) / "result.json"
    if not path.exists():
        return {"airflow": airflow, "python": python, "runs": NOT_RUN, "borders": {}}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**found, "borders": borders(path.with_name("borders.xml"))}


def borders(report: Path) -> dict[str, int]:
    """Return how many tests there were, and how many of them failed or were skipped."""
    if not report.exists():
        return {}
    suite = ET.parse(report).getroot()[0]  # noqa: S314 - pytest has just written it
    return {name: int(suite.attrib[name]) for name in ("tests", "errors", "failures", "skipped")}


def row(found: dict[str, Any]) -> list[str]:
    """Return one line: how many Dags ran, and what the others need."""
    runs = found["runs"]
    absent = {name: run["missing"] for name, run in runs.items() if run["missing"]}
    why = "; ".join(f"`{name}`: needs `{', '.join(needs)}`" for name, needs in absent.items())
    if found["runs"] == NOT_RUN:
        ran = "not run"
    elif broken := failed_dags(found):
        ran = f"FAILED: {', '.join(broken)}"
    else:
        ran = f"all {len(runs) - len(absent)}"
    return [found["airflow"], found["python"], ran, tested(found["borders"]), why]


def tested(counts: dict[str, int]) -> str:
    """Return the result of the tests, in words."""
    if not counts:
        return "not run"
    if bad := counts["errors"] + counts["failures"]:
        return f"FAILED: {bad}"
    skipped = f"; {counts['skipped']} more need loops" if counts["skipped"] else ""
    return f"all {counts['tests'] - counts['skipped']}{skipped}"


def failed(found: dict[str, Any]) -> bool:
    """Tell whether something did not work, or was not run."""
    return bool(failed_dags(found)) or not tested(found["borders"]).startswith("all")


def failed_dags(found: dict[str, Any]) -> list[str]:
    """Return the names of the Dags that did not work."""
    return [name for name, run in found["runs"].items() if not run["worked"]]


if __name__ == "__main__":
    sys.exit(main())
