"""Habits of wording that came back, and what to write instead. CONTRIBUTING.md has the style."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [
    path
    for folder in ("airflow_provider_agentforce", "example_dags", "docs/snippets", "scripts")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

INSTEAD = {
    r"\ban own\b": "its own",
    r"\b(?:is|are|was|were) no (?!longer|more|less|need|way|such|other|different|problem|reason)\w+ "
    r"(?:that|which|of|in|for)\b": "is not a",
    r"\b(?:is|are|was|were) no valid\b": "is not a valid",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\banew\b": "again",
    r"\bnobody\b": "no one, or say who",
    r"\bfor ever\b": "forever",
    r"\btime-outs?\b": "timeout",
    r"\b(?:is|are|was|were) told\b": "receives, is asked",
    r"\bhow it goes\b": "progress",
    r"\bin (?:the|its|their) place of\b": "instead of",
    r"\bin their day\b": "at that time",
    r"\bfeels its way\b": "increases again",
    r"\bit was run\b": "it was tested",
    r"\bof (?:its|their) own\b": "its own, separate",
    r"\bgoes on\b": "continues",
    r"\bpassed over\b": "skipped, ignored",
    r"\bcommonest\b": "most common",
    r"\btak(?:es|e|ing) down\b": "record, write",
    r"\bask(?:s|ed|ing)? back\b": "ask a question",
    r"\blook(?:s|ed|ing)? into\b": "search, check",
    r"\bmessages?(?: that)? (?:is|are|was|were) on (?:its|their) way\b": "in flight",
    r"\b(?:licence|honour|colour|neighbour)\w*\b": "American spelling",
}


def prose(path: Path) -> str:
    """Return the comments and texts of a module, or a page as a whole."""
    if path.suffix == ".md":
        # CONTRIBUTING.md names the habits, in quotation marks.
        return re.sub(r'not "[^"]*"', "", path.read_text(encoding="utf-8"))
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return "\n".join(token.string for token in tokens if token.type in kinds)


@pytest.mark.parametrize("path", [*PAGES, *CODE], ids=lambda path: str(path.relative_to(ROOT)))
def test_the_words_are_those_of_the_style_page(path):
    text = re.sub(r"\s+#?\s*", " ", prose(path))
    found = [
        f"{text[max(0, match.start() - 40) : match.end() + 20]!r}: write {better!r}"
        for habit, better in INSTEAD.items()
        for match in re.finditer(habit, text, re.IGNORECASE)
    ]
    assert found == []
