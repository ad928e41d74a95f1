"""`slicemq bench NAME --frames N`: measure a running pipeline from the outside."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli.common import Network, Output, verb

if TYPE_CHECKING:
    from slicemq.client import Pipeline, Result, Stats
    from slicemq.specs import Arrays

_DISTINCT = 8


@verb
def command(
    net: Network,
    out: Output,
    name: str = typer.Argument(..., help="The pipeline."),
    frames: int = typer.Option(100, "--frames", min=1, help="Frames to measure."),
    warmup: int = typer.Option(5, "--warmup", min=0, help="Frames to send before, not measured."),
    limit: int | None = typer.Option(
        None, "--limit", min=1, help="At most so many frames on their way (1: pure latency). Default: the window."
    ),
    file: Path | None = typer.Option(None, "--input", help="Send this file (see slicemq infer). Default: random."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the random frames."),
    timeout: float = typer.Option(
        60.0, "--timeout", min=0.001, help="Seconds after which a frame counts as failed."
    ),
) -> None:
    """Measure a pipeline: frames per second, latency, and what was sent again."""
    from slicemq.client import Pipeline

    with Pipeline(name, net.options, cluster=net.cluster, give_up_after=timeout) as pipeline:
        inputs = _inputs(pipeline, file, min(frames, _DISTINCT), seed)
        for _ in pipeline.map(itertools.islice(itertools.cycle(inputs), warmup), limit=limit):
            pass
        before = pipeline.stats
        begun = time.monotonic()
        results: list[Result] = []
        with out.progress() as progress:
            task = progress.add_task("frames", total=frames, note="")
            source = itertools.islice(itertools.cycle(inputs), frames)
            for result in pipeline.map(source, raise_errors=False, limit=limit):
                # Without the tensors: millions of frames would fill the memory.
                results.append(replace(result, outputs={}, tensors={}))
                rate = len(results) / (time.monotonic() - begun)
                progress.update(task, advance=1, note=f"{rate:.1f} frames/s")
        seconds = time.monotonic() - begun
        after = pipeline.stats
    body = report(name, results, seconds, before, after)
    out.result(body, lambda: as_text(body))
    for result in results:
        if result.error is not None:
            raise result.error


def _inputs(pipeline: Pipeline, file: Path | None, count: int, seed: int) -> list[Arrays]:
    from coordinator.cli.arrays import random_frames, read_frame

    if file is not None:
        return [read_frame(file, pipeline.inputs).arrays]
    return random_frames(pipeline.inputs, count, seed)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of values in ascending order, at least one of them."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def report(name: str, results: Sequence[Result], seconds: float, before: Stats, after: Stats) -> dict[str, Any]:
    """What was measured, as JSON; counters are those of the measured frames alone."""
    latencies = sorted(result.latency * 1000 for result in results if result.error is None)
    revisions: dict[str, int] = {}
    for result in results:
        if result.error is None:
            revisions[result.revision] = revisions.get(result.revision, 0) + 1
    spread = {f"p{p}": round(percentile(latencies, p), 3) for p in (50, 90, 99)} if latencies else {}
    if latencies:
        spread |= {"mean": round(sum(latencies) / len(latencies), 3), "max": round(latencies[-1], 3)}
    return {
        "pipeline": name,
        "frames": len(results),
        "answered": len(latencies),
        "failed": len(results) - len(latencies),
        "seconds": round(seconds, 3),
        "frames_per_second": round(len(latencies) / seconds, 3),
        "latency_ms": spread,
        "window": after.window,
        "share": after.share,
        "resent": after.resent - before.resent,
        "missed": after.missed - before.missed,
        "doubles": after.doubles - before.doubles,
        "dropped": {
            key: count - before.dropped.get(key, 0)
            for key, count in after.dropped.items()
            if count > before.dropped.get(key, 0)
        },
        "revisions": revisions,
        "failovers": [
            {"lost": f.lost, "revision": f.revision, "at": round(f.at, 3), "seconds": round(f.seconds, 3)}
            for f in after.failovers
            if f not in before.failovers
        ],
    }


def as_text(body: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"{body['answered']} of {body['frames']} frames answered in {body['seconds']:.2f} s: "
        f"{body['frames_per_second']:.2f} frames/s",
    ]
    if body["latency_ms"]:
        spread = ", ".join(f"{key} {value:.1f}" for key, value in body["latency_ms"].items())
        lines.append(f"latency (ms, from submit, with the window full): {spread}")
    lines.append(f"window {body['window']} (share {body['share']})")
    lines.append(f"resent {body['resent']}, deadlines missed {body['missed']}, double answers {body['doubles']}")
    if body["dropped"]:
        lines.append("dropped: " + ", ".join(f"{key} {count}" for key, count in body["dropped"].items()))
    lines.append("revisions: " + (", ".join(f"{r}: {n} frames" for r, n in body["revisions"].items()) or "none"))
    lines += [
        f"failover: {f['lost']} lost, first result of {f['revision']} after {f['seconds']:.3f} s"
        for f in body["failovers"]
    ]
    return "\n".join(lines)
