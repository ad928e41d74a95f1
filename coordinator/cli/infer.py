"""`slicemq infer NAME INPUT...`: send files to a pipeline and show, or keep, what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli.common import Network, Output, verb
from slicemq.errors import InputError, UsageError

if TYPE_CHECKING:
    from coordinator.cli.arrays import FileFrame
    from slicemq.client import Pipeline, Result

_NORMALIZE = (
    "How a picture's pixels become values: -1..1 (default for float inputs), 0..1, none (0..255), imagenet (mean "
    "and deviation). uint8 inputs always take 0..255, int8 inputs the pixels minus 128."
)


@verb
def command(
    net: Network,
    out: Output,
    name: str = typer.Argument(..., help="The pipeline."),
    inputs: list[Path] = typer.Argument(
        ...,
        metavar="INPUT",
        help="Files, one frame each: .npy, .png, .jpg or .bmp for a model with one input (pictures are stretched "
        "to its size, bilinear); .npz with an array for each input, by name.",
    ),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="Write all outputs to this .npz file (several frames: 0/<name>, 1/<name> ...)."
    ),
    normalize: str | None = typer.Option(None, "--normalize", help=_NORMALIZE),
    timeout: float = typer.Option(
        60.0, "--timeout", min=0.001, help="Seconds after which a frame counts as failed."
    ),
) -> None:
    """Send files to a pipeline and show what comes back."""
    from coordinator.cli.arrays import write_npz
    from slicemq.client import Pipeline
    from slicemq.pixels import NORMALIZATIONS

    if normalize is not None and normalize not in NORMALIZATIONS:
        raise UsageError(f"--normalize: expected {', '.join(NORMALIZATIONS)}, got {normalize!r}")
    for file in inputs:
        if not file.is_file():
            raise InputError(f"{file}: no such file")
    with Pipeline(name, net.options, cluster=net.cluster, give_up_after=timeout) as pipeline:
        frames, results = _run(pipeline, inputs, normalize, out)
    if output is not None:
        write_npz(output, keyed(results))
    bodies = [describe_result(frame, result) for frame, result in zip(frames, results, strict=True)]
    body = {"pipeline": name, "frames": bodies, "output": None if output is None else str(output)}
    out.result(body, lambda: as_text(body))
    for result in results:
        if result.error is not None:
            raise result.error


def _run(
    pipeline: Pipeline, files: list[Path], normalize: str | None, out: Output
) -> tuple[list[FileFrame], list[Result]]:
    from dataclasses import replace

    from coordinator.cli.arrays import read_frame

    frames: list[FileFrame] = []
    results: list[Result] = []

    def read() -> Any:
        for file in files:
            frame = read_frame(file, pipeline.inputs, normalize)
            # What is kept of it is its name: the client holds the arrays as long as they are needed.
            frames.append(replace(frame, arrays={}))
            yield frame.arrays

    with out.progress() as progress:
        task = progress.add_task("frames", total=len(files), note="")
        for result in pipeline.map(read(), raise_errors=False):
            results.append(result)
            progress.update(task, advance=1, note=f"{len(results)} of {len(files)}")
    return frames, results


def keyed(results: list[Result]) -> dict[str, Any]:
    """All outputs by name; of several frames with the frame's number, from 0, and a slash before it."""
    if len(results) == 1:
        return dict(results[0].outputs)
    return {f"{n}/{key}": array for n, result in enumerate(results) for key, array in result.outputs.items()}


def describe_result(frame: FileFrame, result: Result) -> dict[str, Any]:
    """One frame's outcome as JSON."""
    from coordinator.cli.arrays import summary

    return {
        "file": str(frame.file),
        "input": frame.note,
        "sequence": result.sequence,
        "revision": result.revision,
        "latency_ms": round(result.latency * 1000, 3),
        "attempts": result.attempts,
        "outputs": [summary(key, array) for key, array in result.outputs.items()],
        "error": None if result.error is None else str(result.error),
    }


def as_text(body: dict[str, Any]) -> str:
    """The same for people."""
    from coordinator.cli.arrays import summary_text

    lines = []
    for frame in body["frames"]:
        again = f", sent {frame['attempts']} times" if frame["attempts"] > 1 else ""
        how = frame["error"] or f"{frame['latency_ms']:.1f} ms, revision {frame['revision']}{again}"
        lines.append(f"{frame['file']}: {how}")
        if frame["input"]:
            lines.append(f"  input: {frame['input']}")
        lines += [f"  {summary_text(output)}" for output in frame["outputs"]]
    if body["output"]:
        lines.append(f"written: {body['output']}")
    return "\n".join(lines)
