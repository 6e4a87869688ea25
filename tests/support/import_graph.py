"""Modules as graphs of their imports: who imports whom, cycles, the longest chain.

All imports count, those within functions and under TYPE_CHECKING too, unless a graph is
asked for ``at_start``: of what Python runs when it imports a module. ``from a import
b`` imports ``a.b`` if that is a module, else ``a``; that Python also runs the packages
above a module does not count.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache

Graph = Mapping[str, frozenset[str]]


def at_start(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a module that run when it is imported."""
    for node in ast.iter_child_nodes(tree):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not function and not _is_for_types(node):
            yield node
            yield from at_start(node)


def _is_for_types(node: ast.AST) -> bool:
    """Recognise ``if TYPE_CHECKING:``, which no run enters."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def imported(nodes: Iterable[ast.AST], names: frozenset[str]) -> Iterator[str]:
    """Yield the modules of ``names`` that one of the nodes imports."""
    for node in nodes:
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name if name in names else node.module or "" for name in whole]
        else:
            continue
        yield from names.intersection(found)


def graph_of(
    trees: Mapping[str, ast.Module],
    nodes: Callable[[ast.AST], Iterable[ast.AST]] = ast.walk,
) -> Graph:
    """Return for each module those of the others that it imports."""
    names = frozenset(trees)
    return {
        name: frozenset(imported(nodes(tree), names)) - {name}
        for name, tree in trees.items()
    }


def rolled_up(graph: Graph, group: Callable[[str], str]) -> Graph:
    """Return the graph of groups of modules: those that their members import."""
    rolled: dict[str, set[str]] = {}
    for name, targets in graph.items():
        rolled.setdefault(group(name), set()).update(map(group, targets))
    return {name: frozenset(targets - {name}) for name, targets in rolled.items()}


def reached(graph: Graph, start: str) -> frozenset[str]:
    """Return what a node imports, directly or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting.extend(new)
    return frozenset(found)


def cycles(graph: Graph) -> list[tuple[str, ...]]:
    """Return the largest groups whose members all import each other, in order."""
    reach = {name: reached(graph, name) for name in graph}
    return sorted(
        {
            tuple(sorted(other for other in reach[name] if name in reach[other]))
            for name in graph
            if name in reach[name]
        }
    )


def longest_chain(graph: Graph) -> tuple[str, ...]:
    """Return the longest chain in which each imports the next; a cycle counts once."""
    group = {name: cycle[0] for cycle in cycles(graph) for name in cycle}
    straight = rolled_up(graph, lambda name: group.get(name, name))

    @cache
    def chain(name: str) -> tuple[str, ...]:
        return (name, *max(map(chain, sorted(straight[name])), key=len, default=()))

    return max(map(chain, straight), key=len, default=())


def doubles(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names that stand at more than one place, with the places."""
    places: dict[str, list[str]] = {}
    for name, place in pairs:
        places.setdefault(name, []).append(place)
    return {name: each for name, each in sorted(places.items()) if len(each) > 1}
