"""A coordinator's folder is used by one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.folder_lock import locked
from slicemq.errors import ConfigError

KEEP = """
import sys
from pathlib import Path
from coordinator.folder_lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_processes_until_it_ends_in_whatever_way(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    words = [sys.executable, "-c", KEEP, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        expected = r"--state-dir .*state: another coordinator .*folder of its own"
        with pytest.raises(ConfigError, match=expected), locked(folder):
            pass
        other.kill()
    for _ in range(2):
        with locked(folder):
            pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--state-dir .*file"), locked(tmp_path / "file" / "state"):
        pass


def test_a_disk_that_takes_no_lock_file_ends_no_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    with locked(tmp_path):
        pass
