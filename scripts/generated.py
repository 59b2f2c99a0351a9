"""A part of a page that the code knows better: printed, compared with the page, or written into it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def command(about: str, name: str, text: str) -> int:
    """Do what the command line asks for, and return the exit status.

    :param about: what ``--help`` says.
    :param name: the part stands between two lines ``<!-- name -->``.
    :param text: the part as it has to be.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", metavar="PAGE", type=Path, help="exit with 1 when PAGE differs")
    choice.add_argument("--write", metavar="PAGE", type=Path, help="update PAGE")
    options = parser.parse_args()
    page = options.check or options.write
    if page is None:
        sys.stdout.write(text)
        return 0
    return write(page, name, text, check=options.check is not None)


def write(page: Path, name: str, text: str, *, check: bool = False) -> int:
    """Update the page, or compare it; return the exit status."""
    before = page.read_text(encoding="utf-8")
    after = _with(before, f"<!-- {name} -->", text)
    if after is None:
        sys.stderr.write(f"{page} needs exactly two lines <!-- {name} -->\n")
        return 1
    if before != after and check:
        sys.stderr.write(f"{page} is out of date. Run: python {sys.argv[0]} --write {page}\n")
        return 1
    page.write_text(after, encoding="utf-8")
    return 0


def _with(page: str, marker: str, text: str) -> str | None:
    parts = page.split(marker)
    if len(parts) != 3:  # noqa: PLR2004
        return None
    return f"{parts[0]}{marker}\n\n{text}\n{marker}{parts[2]}"


def table(titles: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
