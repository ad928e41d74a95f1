"""`slicemq model watch` on a real cluster: what comes into the folder runs, once, also over a restart."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from emulator.site import Running, Site
from tests.e2e.scene import LARGER, STEADY, Flow, Wire, failing, model
from tests.waiting import eventually

NAME = "watched"


@contextlib.contextmanager
def watching(site: Site, folder: Path, log: str, *words: str) -> Iterator[Running]:
    """A watcher of the folder that looks often; it must end cleanly when it is asked to."""
    options = [*site.network_options(), "--every", "0.2", "--settle", "0.4", *STEADY, *words]
    running = site.run(log, [sys.executable, "-m", "coordinator.cli", "model", "watch", str(folder), *options])
    try:
        eventually(lambda: "ready: watching" in running.log.read_text() or not running.alive, 20.0)
        yield running
    finally:
        code = running.end()
    assert code == 0, running.tail
    assert "Traceback" not in running.log.read_text()


def test_a_folder_is_rolled_out_once(site: Site, wire: Wire, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    (folder / NAME).mkdir(parents=True)
    shutil.copy(model(), folder / NAME / "1.tflite")
    (folder / "broken.tflite").write_bytes(b"no model")
    try:
        with watching(site, folder, "watch-1") as first:
            eventually(lambda: f"{NAME}: {NAME}/1.tflite runs as 1-" in first.log.read_text(), 60.0)
            eventually(lambda: "skipped broken.tflite: not a TFLite model" in first.log.read_text())
            with Flow(site, model(), name=NAME) as flow:
                flow.passes(5)
        before = wire.plan(NAME).revision
        with watching(site, folder, "watch-2") as second:
            # The one that is skipped is judged in the same look in which the other would be deployed.
            eventually(lambda: "skipped broken.tflite" in second.log.read_text())
            shutil.copy(model(LARGER), folder / NAME / "2.tflite")
            eventually(lambda: f"{NAME}/2.tflite runs as 2-" in second.log.read_text(), 60.0)
            assert f"{NAME}/1.tflite is rolled out" not in second.log.read_text()
            assert second.log.read_text().count("skipped broken.tflite") == 1
        assert before.startswith("1-")
        assert wire.plan(NAME).revision.startswith("2-")
    finally:
        site.json("undeploy", NAME)


def test_a_folder_that_is_not_there_and_a_wrong_option(site: Site, tmp_path: Path) -> None:
    assert "expected a folder" in failing(site, 3, "model", "watch", str(tmp_path / "gone"))
    assert "--canary: expected" in failing(site, 2, "model", "watch", str(tmp_path), "--canary", "7")
