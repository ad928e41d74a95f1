"""Link rates from places: SEIFER's bandwidth formula (arXiv 2210.12219) with the broker in the middle."""

from __future__ import annotations

import math
import random

Place = tuple[float, float]


def bandwidth(distance: float) -> float:
    """bit/s over `distance` metres (at least 1): log2(1 + 283230 / d^2) Mbit/s."""
    return 1e6 * math.log2(1.0 + 283230.0 / max(1.0, distance) ** 2)


def places(kind: str, count: int, radius: float, clusters: int, seed: int) -> list[Place]:
    """Where `count` boards stand, in metres from the broker.

    ring: a regular polygon; grid: a square grid as wide as the ring's circle; cluster: around centres on the
    circle, at most 2 radius / clusters away, boards dealt out in turn; random: uniform in the square.
    """
    draw = random.Random(seed)
    if kind == "ring":
        return [_on_circle(radius, place / count) for place in range(count)]
    if kind == "grid":
        side = math.ceil(math.sqrt(count))
        step = 2 * radius / max(1, side - 1)
        return [((place % side) * step - radius, (place // side) * step - radius) for place in range(count)]
    if kind == "cluster":
        found = []
        for place in range(count):
            x, y = _on_circle(radius, (place % clusters) / clusters)
            dx, dy = _on_circle(2 * radius / clusters * math.sqrt(draw.random()), draw.random())
            found.append((x + dx, y + dy))
        return found
    return [(draw.uniform(-radius, radius), draw.uniform(-radius, radius)) for _ in range(count)]


def rates(kind: str, count: int, radius: float, clusters: int, seed: int) -> list[float | None]:
    """The link rate of each board in bit/s; None where the scenario gives the rates itself."""
    if kind == "given":
        return [None] * count
    return [bandwidth(math.hypot(x, y)) for x, y in places(kind, count, radius, clusters, seed)]


def _on_circle(radius: float, turn: float) -> Place:
    return radius * math.cos(2 * math.pi * turn), radius * math.sin(2 * math.pi * turn)
