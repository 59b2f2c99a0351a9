"""Parts of a page that the code determines: printed, compared with the page, or written into it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def command(about: str, parts: Mapping[str, str | Callable[[Path], str]]) -> int:
    """Do what the command line asks for, and return the exit status.

    :param about: the text of ``--help``.
    :param parts: texts by name, or functions of the page. A page has a part between two lines
        ``<!-- name -->``; each part is in one of the pages.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare; exit with 1 if a page differs")
    parser.add_argument("pages", metavar="PAGE", type=Path, nargs="+")
    options = parser.parse_args()
    texts = {page: page.read_text(encoding="utf-8") for page in options.pages}
    status = 0
    for name, part in parts.items():
        page = next((one for one, text in texts.items() if _marker(name) in text), options.pages[0])
        text = part if isinstance(part, str) else part(page)
        status |= write(page, name, text, check=options.check)
    return status


def write(page: Path, name: str, text: str, *, check: bool = False) -> int:
    """Update the page, or compare it; return the exit status."""
    before = page.read_text(encoding="utf-8")
    after = _with(before, _marker(name), text)
    if after is None:
        sys.stderr.write(f"{page} needs exactly two lines {_marker(name)}\n")
        return 1
    if before != after and check:
        sys.stderr.write(f"{page} is out of date. Run: python {sys.argv[0]} {page}\n")
        return 1
    page.write_text(after, encoding="utf-8")
    return 0


def _marker(name: str) -> str:
    return f"<!-- {name} -->"


def _with(page: str, marker: str, text: str) -> str | None:
    parts = page.split(marker)
    if len(parts) != 3:  # noqa: PLR2004
        return None
    return f"{parts[0]}{marker}\n\n{text}\n{marker}{parts[2]}"


def table(titles: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
