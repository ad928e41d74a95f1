"""File, environment and flags of an ingress; what is refused and how it is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingress.config import IngressConfig, load_config, load_retirement, run_arguments
from ingress.line import COUNTERS
from ingress.main import main
from slicemq.errors import ConfigError, SliceMQError, UsageError

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "plain-devices.md"


def load(*words: str, **environment: str) -> IngressConfig:
    return load_config(run_arguments("slicemq-ingress", words), environment)


def test_the_shortest_command_line() -> None:
    found = load("faces", "--from", "cams/+/image", "--to", "cams/{1}/boxes")
    assert (found.id, found.pipeline, found.policy, found.queue) == ("faces", "faces", "block", 250)
    assert found.limits().message_bytes == 32_000_000
    assert found.input_rules().picture.max_pixels == 25_000_000


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "door.toml"
    file.write_text(
        'pipeline = "faces"\nfrom = "a/+"\nto = "b/{1}"\nid = "door"\nqueue = 3\npolicy = "drop-oldest"\n'
    )
    found = load("--config", str(file), "--queue", "5", SLICEMQ_INGRESS_POLICY="drop-newest", SLICEMQ_CLUSTER="c")
    assert (found.id, found.source, found.target) == ("door", "a/+", "b/{1}")
    assert (found.queue, found.policy, found.cluster) == (5, "drop-newest", "c")


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    found = load("faces", "--from", "a/+", "--to", "b", "--normalize", "0..1", "--give-up-after", "2")
    file = tmp_path / "shown.toml"
    file.write_text(found.shown())
    assert load("--config", str(file)) == found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "the pipeline's name is missing"),
        (("faces", "--to", "b"), "--from TOPIC is missing"),
        (("faces", "--from", "a", "--to", "a"), "taken for messages"),
        (("faces", "--from", "a", "--to", "b", "--policy", "none"), "--policy: expected block or drop-oldest"),
        (("faces", "--from", "a", "--to", "b", "--queue", "0"), "--queue: expected at least 1"),
        (("faces", "--from", "a", "--to", "b", "--id", "Door"), "is no id"),
        (("faces", "--from", "a", "--to", "b", "--id", "d" * 49), "1 to 48"),
        (("faces", "--from", "a", "--to", "b", "--max-message-mb", "200", "--queue-mb", "100"), "at most queue_mb"),
        (("faces", "--from", "a", "--to", "b", "--max-megapixels", "nan"), "--max-megapixels: expected"),
        (("faces", "more", "--from", "a", "--to", "b"), "unrecognized arguments"),
    ],
)
def test_wrong_settings_are_named(words: tuple[str, ...], says: str) -> None:
    with pytest.raises((ConfigError, UsageError), match=re.escape(says)):
        load(*words)


def test_check_config_prints_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faces", "--from", "a", "--to", "b", "--check-config"]) == 0
    assert 'from = "a"' in capsys.readouterr().out
    assert main(["faces", "--from", "a", "--to", "b", "--broker", "ftp://x", "--check-config"]) == 3
    assert "scheme 'ftp'" in capsys.readouterr().err


def test_retire_wants_an_id() -> None:
    found, arguments = load_retirement("p", ["door", "--broker", "mqtt://b:1"], {})
    assert (found.id, found.options.host, arguments.force) == ("door", "b", False)
    with pytest.raises(SliceMQError, match="1 to 48"):
        load_retirement("p", ["d" * 49], {})


def test_the_page_names_every_option_that_bounds_or_chooses() -> None:
    page = PAGE.read_text()
    for name in ("from", "to", "in", "out", "policy", "queue", "queue-mb", "max-message-mb", "resize", "normalize"):
        assert f"--{name}" in page, name
    for name in ("max-megapixels", "json-values"):
        assert f"--{name}" in page, name


def test_the_page_names_every_counter() -> None:
    page = PAGE.read_text()
    for name in (*COUNTERS, "ignored", "waiting", "held", "held_bytes"):
        assert f"`{name}`" in page, name


def test_the_example_file_of_the_page_is_right(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "door.toml"
    file.write_text(text)
    assert load("--config", str(file)).policy == "drop-oldest"
