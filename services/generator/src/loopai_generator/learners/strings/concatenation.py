"""The cheapest concatenation of parts and constants that gives the outputs of all examples.

What Gulwani's version-space algebra keeps as a graph over the positions in an output is searched here for all examples
at once: a node is a position in each of the outputs, an edge a part whose text stands there in every one of them.
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence

from loopai_generator.learners.strings.language import Column, Expression, joined

MAX_NODES = 4000
_PIECE = 0.5
_LETTER = 0.6
_OTHER = 0.1
_MAX_CONSTANT_CHARACTERS = 60

_Path = tuple[Expression, "_Path | None"]


def concatenation(pieces: Sequence[tuple[Expression, Column]], outputs: Column) -> tuple[float, Expression] | None:
    """An expression for the outputs and its cost, or ``None`` when these pieces and constants do not make them."""
    starting: dict[str, list[tuple[Expression, Column]]] = defaultdict(list)
    for expression, column in pieces:
        starting[column[0]].append((expression, column))
    longest = max(map(len, starting), default=0)
    start = (0,) * len(outputs)
    end = tuple(map(len, outputs))
    queue: list[tuple[float, int, tuple[int, ...], _Path | None]] = [(0.0, 0, start, None)]
    best = {start: 0.0}
    pushed = visited = 0
    while queue and visited < MAX_NODES:
        cost, _, node, path = heapq.heappop(queue)
        if node == end:
            return cost, joined(_expressions(path), cost)
        if cost > best[node] + 1e-9:
            continue
        visited += 1
        rest = outputs[0][node[0] :]
        edges = [
            (expression.cost, expression, column)
            for size in range(min(longest, len(rest)) + 1)
            for expression, column in starting.get(rest[:size], ())
            if all(map(str.startswith, outputs, column, node))
        ]
        shared = _common_start([o[at : at + _MAX_CONSTANT_CHARACTERS] for o, at in zip(outputs, node, strict=True)])
        price = 0.0
        for size, character in enumerate(shared, 1):
            price += _LETTER if character.isalnum() else _OTHER
            text = shared[:size]
            edges.append((price, Expression.constant(text), (text,) * len(outputs)))
        for price, expression, column in edges:
            following = tuple([at + len(text) for at, text in zip(node, column, strict=True)])
            total = cost + price + _PIECE
            if following != node and total < best.get(following, float("inf")) - 1e-9:
                best[following] = total
                pushed += 1
                heapq.heappush(queue, (total, pushed, following, (expression, path)))
    return None


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    for position, character in enumerate(first):
        if character != last[position]:
            return first[:position]
    return first


def _expressions(path: _Path | None) -> list[Expression]:
    found: list[Expression] = []
    while path is not None:
        found.append(path[0])
        path = path[1]
    return found[::-1] or [Expression.constant("")]
