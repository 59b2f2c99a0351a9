"""Writes rows into an org, in this process or in one that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from batches import client_of, compile_template

from airflow_provider_agentforce.batch.record_values import WriteOptions
from airflow_provider_agentforce.batch.record_writer import RecordWriter

FIELDS = {"Id": "{{ record.key }}", "Agent_Summary__c": "{{ record.text }}"}


def answered(keys, text="about {}"):
    """Return rows of a batch that has an answer for each key."""
    return [
        {"key": key, "status": "answered", "outcome": "answered", "text": text.format(key)} for key in keys
    ]


def results_of(folder, rows):
    """Write a file of results and return its path."""
    path = folder / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def writer(client, *paths, fields=FIELDS, sobject="Account", identity="run", **options):
    rendered = {name: compile_template(text) for name, text in fields.items()}
    chosen = WriteOptions(sobject=sobject, fields=rendered, **options)
    return RecordWriter(client.records, paths, paths[0].parent / "writes" / "task", chosen, identity=identity)


def errors_of(result):
    """Return the lines of the file of errors."""
    return [json.loads(line) for line in Path(result["errors"]).read_text(encoding="utf-8").splitlines()]


def in_a_process(fields, path):
    """Start a write in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, text=True, env=environment)
    process.stdin.write(json.dumps({"fields": fields, "path": str(path)}))
    process.stdin.close()
    return process


if __name__ == "__main__":
    asked = json.loads(sys.stdin.read())
    writer(client_of(asked["fields"]), Path(asked["path"])).run()
