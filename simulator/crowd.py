"""Many runs, over several processes."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from simulator.play import Result, play
from simulator.scenarios import SCENARIOS
from simulator.tally import Tally, count

_BLOCK = 50
_CLEAN_EVERY = 20


def play_block(scenario: str, first: int, runs: int) -> Tally:
    """The runs with seeds `first`, `first` + 1 ...; what the cores log of their faults is not wanted."""
    logging.disable(logging.WARNING)
    # A run keeps nearly all that it makes until its end: to look for rubbish meanwhile is in vain.
    gc.disable()
    try:
        return count(_one(scenario, seed) for seed in range(first, first + runs))
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


def _one(scenario: str, seed: int) -> Result:
    if seed % _CLEAN_EVERY == 0:
        gc.collect()
    return play(SCENARIOS[scenario], seed)


def play_many(scenario: str, first: int, runs: int, jobs: int) -> Iterator[Tally]:
    """Tallies of parts of the runs with seeds from `first` on, in `jobs` processes, in order of the seeds."""
    blocks = [(start, min(_BLOCK, first + runs - start)) for start in range(first, first + runs, _BLOCK)]
    if jobs == 1:
        for start, size in blocks:
            yield play_block(scenario, start, size)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(
            play_block, [scenario] * len(blocks), [start for start, _ in blocks], [size for _, size in blocks]
        )
