"""The page of the architecture shows the imports as they are."""

import ast
import enum
import importlib
import inspect
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import airflow_provider_agentforce

PACKAGE = Path(airflow_provider_agentforce.__file__).parent
NAME = PACKAGE.name
PAGE = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
# Each package, and those that it may import beside itself and the exceptions.
ALLOWED = {
    name: set(re.findall(r"`(\w+)`", imports))
    for name, imports in re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", PAGE, re.MULTILINE)
}
EVERYWHERE = {"exceptions"}


def modules():
    """Return every module by its name inside the package; the package itself is ``""``."""
    files = (file for file in PACKAGE.rglob("*.py") if "example_dags" not in file.parts)
    names = ((".".join(file.relative_to(PACKAGE).with_suffix("").parts), file) for file in files)
    return {re.sub(r"\.?__init__$", "", name): file for name, file in names}


def imports_of(file, known):
    """Yield the modules of the package that *file* imports, also inside functions and for types alone."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            continue
        for name in found:
            if name.split(".")[0] == NAME:
                inside = name.partition(".")[2]
                yield inside if inside in known else inside.rpartition(".")[0]


@cache
def imported():
    """Return the imports of each module. Not at import time: every worker of xdist imports this file."""
    known = modules()
    return {name: set(imports_of(file, known)) for name, file in known.items()}


def below(names, top):
    """Return those of *names* that are *top* or inside of it."""
    return {name for name in names if name == top or name.startswith(f"{top}.")}


def names_at(row):
    """Return the names of modules in a line of the picture, with the columns that they take."""
    found = re.finditer(r"[a-z_]+(\.[a-z_]+)+", PICTURE[row])
    return [(name.start(), name.end(), name[0]) for name in found]


def name_at(row, column):
    """Return the module, if one does, that stands in the picture at *column*."""
    inside = [name for start, end, name in names_at(row) if start <= column < end]
    return inside[0] if inside else None


def origin(row, column):
    """Follow a line of the picture from one of its points back to the module where it begins."""
    line = PICTURE[row]
    char = line[column]
    if char in "─┐":
        begin = re.search(r"(\S+) ─+$", line[:column])
        return begin and begin[1]
    if char == "┌":
        return origin(row, line.index("┘", column))
    if char in "│├└┘":
        return name_at(row - 1, column) or origin(row - 1, column)
    return None


def arrows():
    """Yield each arrow of the picture: a module, and one that it uses."""
    for row, line in enumerate(PICTURE):
        for head in re.finditer("[▼▶]", line):
            column = head.start()
            if head[0] == "▼":
                yield origin(row - 1, column), name_at(row + 1, column)
            else:
                yield origin(row, column - 1), name_at(row, column + 2)


def test_every_module_in_the_picture_exists():
    named = {name for row in range(len(PICTURE)) for _, _, name in names_at(row)}
    assert len(named) > 15
    assert [name for name in named if not below(imported(), name)] == []


def test_every_module_that_a_table_names_exists():
    named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", PAGE))
    steps = PAGE.partition("## A batch, from its input")[2].partition("## The packages")[0]
    of_batch = {f"batch.{name}" for name in re.findall(r"`([a-z_]+)`", steps)} - {"batch.batch"}
    assert len(of_batch) > 20
    assert [name for name in named | of_batch if not below(imported(), name)] == []


def test_every_arrow_of_the_picture_is_an_import():
    drawn = list(arrows())
    between = [(user, used) for user, used in drawn if user and used]
    assert len(between) == len(drawn) - 3  # the Dag above has two arrows, the Agent API below one
    for user, used in between:
        found = set().union(*(imported()[name] for name in below(imported(), user)))
        assert below(found, used), f"{user} does not import {used}"


def does_work(found):
    """Tell whether *found* is a class of the package that does more than hold values."""
    holds_values = (BaseException, enum.Enum, tuple)
    return (
        inspect.isclass(found)
        and found.__module__.startswith(NAME)
        and not issubclass(found, holds_values)
        # Not is_dataclass(): it is true of each operator, since Airflow's base class is one.
        and "__dataclass_fields__" not in vars(found)
        and not inspect.isabstract(found)
    )


def workers_of(name):
    """Yield the modules whose classes do work for the module *name*, which imports them."""
    for node in ast.walk(ast.parse(modules()[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith(f"{NAME}."):
            module = importlib.import_module(node.module)
            found = [getattr(module, alias.name, None) for alias in node.names]
            yield from (one.__module__.partition(".")[2] for one in found if does_work(one))


def drawn_below(module, drawn):
    """Return what an arrow, or several in a row, lead to from *module*."""
    found = {used for user, used in drawn if user == module}
    return found.union(*(drawn_below(used, drawn) for used in found))


def test_every_module_that_another_one_has_work_for_it_is_drawn_so():
    drawn = {(user, used) for user, used in arrows() if user and used}
    named = {name for arrow in drawn for name in arrow}
    reached = {name: drawn_below(name, drawn) for name in named}
    for user in named:
        workers = set().union(*(workers_of(name) for name in below(imported(), user)))
        used = {name for name in named - {user} if below(workers, name)}
        # What is below is given what is above as an object, and may make one.
        missing = {name for name in used - reached[user] if user not in reached[name]}
        assert missing == set(), f"the picture has no arrow from {user}"


def test_the_promise_names_every_module_that_the_picture_numbers():
    numbered = {sign for line in PICTURE for sign in re.findall("[①-⑨]", line)}
    explained = re.findall(r"^\| ([①-⑨]) \|", PAGE, re.MULTILINE)
    assert sorted(numbered) == explained


def test_what_the_path_names_is_in_the_module_beside_it():
    named = re.findall(r"`([A-Za-z_]+)(?:\.([a-z_]+))?`\s+\(`([a-z_.]+)`\)", PAGE)
    assert len(named) > 20
    for name, method, module in named:
        found = getattr(importlib.import_module(f"{NAME}.{module}"), name)
        assert found.__module__ == f"{NAME}.{module}"
        assert not method or hasattr(found, method), f"{name} has no {method}"


def package_of(name):
    return name.split(".")[0]


@pytest.mark.parametrize("package", sorted({package_of(name) for name in modules()} - {""}))
def test_a_package_imports_what_the_page_says(package):
    assert package in ALLOWED, f"docs/architecture.md has no row for {package}"
    used = defaultdict(set)
    for name in below(imported(), package):
        for target in imported()[name]:
            used[package_of(target)].add(name)
    known = {"", package, *EVERYWHERE, *ALLOWED[package]}
    assert {target: users for target, users in used.items() if target not in known} == {}
    assert ALLOWED[package] <= set(used), "the page allows an import that nothing makes"


def test_a_folder_says_what_is_inside_and_which_way_data_goes():
    for name, file in modules().items():
        if file.name == "__init__.py" and name:
            lines = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))).splitlines()
            assert 3 <= len(lines) <= 8, f"{name}: {lines}"


def test_the_page_names_no_package_that_is_gone():
    assert set(ALLOWED) == {package_of(name) for name in modules()} - {""}


def test_a_package_imports_only_packages_that_stand_above_it_on_the_page():
    above = set()
    for package, imports in ALLOWED.items():
        assert imports <= above, package
        above.add(package)
