"""What many runs come to survives JSON, and parts add up."""

from __future__ import annotations

import json

from simulator.crowd import play_block
from simulator.tally import Tally


def test_parts_add_up_and_survive_json() -> None:
    whole, parts = play_block("failover", 1, 4), Tally()
    for first in (1, 3):
        part = play_block("failover", first, 2)
        parts.merge(Tally.from_plain(json.loads(json.dumps(part.to_plain()))))
    assert parts.to_plain() == whole.to_plain()
    assert whole.runs == 4
    assert sum(whole.faults.values()) >= 20
