"""All configurations of a model in one emulated cluster, round after round; kept rounds are not run again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from benchmarks.chain_runs import (
    CALIBRATION_FRAMES,
    Case,
    Run,
    deploy,
    learnt_plan,
    make_plan,
    measure,
    round_of,
    write_calibration,
)
from benchmarks.fleet import equal_nodes, say
from benchmarks.frames_of import answers_of, frames_of
from benchmarks.kept import Kept
from benchmarks.models import real_models
from benchmarks.stages import Beats
from slicemq.errors import SliceMQError

# The slices of all configurations stay in a node's cache: VGG16 alone has 553 MB.
_CACHE_MB = "8000"
# One node makes the fewest frames, and all ratios are to it.
_LONGER_ALONE = 1.6


@dataclass(frozen=True)
class Setting:
    """How a model is measured: links of `link` Mbit/s, nodes with `share` of a core, runs of `seconds`.

    benchmark: where rounds are kept. fresh: measure those again. learn: frames that the nodes run before each
    revision of a plan for several nodes (0: the first plan is taken). words: more for the planner.
    """

    benchmark: str
    model: str
    link: int
    share: float
    seconds: float
    repeats: int
    fresh: bool = False
    isolate: bool = True
    learn: int = 0
    words: tuple[str, ...] = field(default=())

    def key(self, cases: Sequence[Case], number: int) -> dict[str, object]:
        """By which a round is kept."""
        body = asdict(self)
        for name in ("benchmark", "repeats", "fresh"):
            del body[name]
        if any(case.budget for case in cases):
            body["calibration"] = CALIBRATION_FRAMES
        return {**body, "words": list(self.words), "cases": [asdict(case) for case in cases], "round": number}

    def seconds_of(self, case: Case) -> float:
        """The length of a run."""
        return self.seconds * (_LONGER_ALONE if case.nodes == 1 else 1.0)


def rounds(setting: Setting, cases: Sequence[Case]) -> list[list[Run]]:
    """`setting.repeats` rounds: those that are kept, and the missing ones, run in one cluster.

    Raises SliceMQError when the model or what the emulator needs is not here.
    """
    model = real_models()[setting.model]
    if not model.path.is_file():
        raise SliceMQError(f"{setting.model}: not here; {model.hint}")
    kept = Kept(setting.benchmark, fresh=setting.fresh)
    known = {number: kept.get(setting.key(cases, number)) for number in range(setting.repeats)}
    found = {n: [Run.from_plain(one) for one in row] for n, row in known.items() if row is not None}
    missing = [number for number in known if number not in found]
    if missing:
        for number, runs in _run(setting, cases, missing):
            kept.add(setting.key(cases, number), [one.to_plain() for one in runs])
            found[number] = runs
    return [found[number] for number in sorted(found)]


def _run(setting: Setting, cases: Sequence[Case], numbers: Sequence[int]) -> Iterator[tuple[int, list[Run]]]:
    model = real_models()[setting.model]
    frames = frames_of(model)
    answers = answers_of(model, frames)
    total = max(case.nodes for case in cases)
    with (
        equal_nodes(
            total,
            share=setting.share,
            rate=setting.link * 1e6,
            options=("--cache-mb", _CACHE_MB),
            isolate=setting.isolate,
        ) as cluster,
        Beats(cluster) as beats,
    ):
        if any(case.budget for case in cases):
            write_calibration(cluster, model)
        plans = {}
        # The longest chains first: they are quick, and what they teach counts in the others.
        for case in sorted(cases, key=lambda case: (-case.nodes, case.budget)):
            if setting.learn and case.nodes > 1 and not case.lanes:
                plans[case] = learnt_plan(cluster, case, model.path, total, frames, setting.learn, *setting.words)
            else:
                plans[case] = make_plan(cluster, case, model.path, total, *setting.words)

        def run(case: Case) -> Run:
            return measure(
                cluster,
                beats,
                case,
                plans[case],
                seconds=setting.seconds_of(case),
                share=setting.share,
                frames=frames,
                answers=answers,
            )

        for number in numbers:
            say(f"{setting.model}, {setting.link} Mbit/s, round {number + 1} of {setting.repeats}")
            yield number, round_of(cluster, cases, partial(deploy, cluster, path=model.path, total=total), run)
