"""File, environment and flags; what is refused and how it is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_node import config
from edge_node.config import NodeConfig, load_config, parse_arguments
from edge_node.main import main
from slicemq.errors import ConfigError, UsageError


@pytest.fixture(autouse=True)
def no_system_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "default.toml")


def load(*words: str, **environment: str) -> NodeConfig:
    return load_config(parse_arguments("slicemq-node", words), environment)


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Kitchen_Pi.local")
    monkeypatch.setenv("HOME", "/home/pi")
    found = load()
    assert found.id == "kitchen-pi"
    assert found.cluster == "default"
    assert found.broker == "mqtt://localhost:1883"
    assert found.state_dir == "/home/pi/.local/state/slicemq/kitchen-pi"
    assert found.heartbeat == 0.4
    assert found.threads is None
    assert found.runtime == "auto"


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('id = "file"\ncluster = "file"\ncache_mb = 1\nheartbeat = 1\n[labels]\nroom = "kitchen"\n')
    found = load("--config", str(file), "--id", "flag", SLICEMQ_NODE_ID="env", SLICEMQ_NODE_CLUSTER="env")
    assert (found.id, found.cluster, found.cache_mb, found.heartbeat) == ("flag", "env", 1, 1.0)
    assert found.labels == {"room": "kitchen"}
    found = load("--label", "a=b", "--label", "c=d=e", SLICEMQ_NODE_CONFIG=str(file), SLICEMQ_NODE_LABELS="x=y")
    assert found.labels == {"a": "b", "c": "d=e"}


def test_the_default_file_is_read_where_it_exists(tmp_path: Path) -> None:
    (tmp_path / "default.toml").write_text('id = "system"')
    assert load().id == "system"


def test_variables_that_all_programs_read_come_second() -> None:
    assert load(SLICEMQ_BROKER="mqtt://a:1", SLICEMQ_CLUSTER="c").broker == "mqtt://a:1"
    assert load(SLICEMQ_BROKER="mqtt://a:1", SLICEMQ_NODE_BROKER="mqtt://b:2").broker == "mqtt://b:2"
    assert load("--id", "x", SLICEMQ_ID="y").id == "x"


def test_state_directory_of_systemd() -> None:
    assert load(STATE_DIRECTORY="/var/lib/slicemq:/other").state_dir == "/var/lib/slicemq"
    assert load("--state-dir", "/x", STATE_DIRECTORY="/var/lib/slicemq").state_dir == "/x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cache_mbb = 3", r"node.toml: unknown field 'cache_mbb', did you mean cache_mb\?"),
        ("zzz = 3", r"unknown field 'zzz'; known fields: id, cluster, broker"),
        ("id = 3", r"node.toml: field id: expected a text, got 3"),
        ('id = "Big Node"', r"field id: 'Big Node' is no id"),
        ('id = "request"', r"field id: 'request' is no id"),
        ("cache_mb = 1.5", r"field cache_mb: expected a whole number, got 1.5"),
        ("cache_mb = true", r"field cache_mb: expected a whole number, got True"),
        ("cache_mb = 0", r"field cache_mb: expected at least 1, got 0"),
        ("heartbeat = nan", r"field heartbeat: expected at least 0.05 and at most 10, got nan"),
        ("threads = 1000", r"field threads: expected at least 1 and at most 256"),
        ('runtime = "onnx"', r"field runtime: expected auto or ai_edge_litert or tflite_runtime, got 'onnx'"),
        ("labels = 3", r"field labels: expected a table of texts"),
        ("[labels]\nfloor = 3", r"field labels: expected a table of texts"),
        ("id = ", r"node.toml: not TOML"),
    ],
)
def test_what_a_file_gets_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load("--config", str(file))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--heartbeat", "fast"], "--heartbeat: expected a number, got 'fast'"),
        (["--cache-mb", "1e3"], "--cache-mb: expected a whole number, got '1e3'"),
        (["--label", "kitchen"], "--label: expected name=value, got 'kitchen'"),
        (["--log-level", "loud"], "--log-level: expected debug or info or warning or error"),
        (["--config", "/nowhere/node.toml"], "/nowhere/node.toml: cannot be read: No such file"),
    ],
)
def test_what_a_flag_gets_wrong_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(*words)
    name = "SLICEMQ_NODE_" + words[0][2:].replace("-", "_").upper().replace("LABEL", "LABELS")
    with pytest.raises(ConfigError, match=message.split(": ", 1)[1]):
        load(**{name: words[1]})


def test_unknown_flags_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="--colour"):
        load("--colour", "red")


def test_check_config_prints_what_can_be_read_again_and_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "password").write_text("swordfish\n")
    (tmp_path / "password").chmod(0o600)
    words = ["--id", "n1", "--username", "pi", "--password-file", str(tmp_path / "password")]
    words += ["--label", 'say="hi"\\', "--state-dir", "/x"]
    assert main([*words, "--check-config"]) == 0
    text = capsys.readouterr().out
    assert "swordfish" not in text
    (tmp_path / "again.toml").write_text(text)
    assert load("--config", str(tmp_path / "again.toml")) == load(*words)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--colour"], 2, "--colour"),
        (["--cache-mb", "x"], 3, "--cache-mb"),
        (["--broker", "http://x"], 3, "scheme 'http'"),
        (["--username", "x", "--password-file", "/nowhere"], 3, "password file /nowhere"),
    ],
)
def test_exit_codes(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--check-config"]) == code
    told = capsys.readouterr().err
    assert told.startswith("slicemq-node: ")
    assert message in told


def test_a_wrong_data_link_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLICEMQ_DATA_LINK", "nonsense")
    assert main(["--check-config"]) == 3
    assert "SLICEMQ_DATA_LINK: 'nonsense', expected auto, own, paho" in capsys.readouterr().err


def test_help_and_check_config_import_neither_numpy_nor_a_runtime() -> None:
    code = (
        "import sys; from edge_node.main import main; main(['--check-config', '--id', 'x']); "
        "import edge_node.service; print([m for m in ('numpy', 'msgpack', 'ai_edge_litert') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [["slicemq-node"], ["slicemq", "node", "run"]])
def test_both_commands_are_the_same_program(command: list[str], tmp_path: Path) -> None:
    program = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
    words = ["--id", "n1", "--state-dir", str(tmp_path), "--check-config"]
    done = subprocess.run([*program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'id = "n1"' in done.stdout
    done = subprocess.run([*program, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--check-config" in done.stdout
    done = subprocess.run([*program, "--cache-mb", "none"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"{' '.join(command)}: --cache-mb: expected")


def test_the_reference_shows_every_field_with_its_default(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/reference/node-config.md").read_text()
    example = text.split("```toml\n")[1].split("```")[0]
    (tmp_path / "node.toml").write_text(example)
    found = load("--config", str(tmp_path / "node.toml"))
    assert found.labels == {"room": "kitchen"}
    for name, option in config._OPTIONS.items():
        assert f"\n{name} = " in example or name == "labels"
        row = next(
            line for line in text.splitlines() if line.startswith("| `") and f"`{name}`" in line.split("|")[1]
        )
        assert "--label" in row if name == "labels" else "--" + name.replace("_", "-") in row
        if option.default not in (None, {}):
            assert str(option.default) in row.split("|")[3]


def test_a_data_broker_is_shown_the_password_with_tls_only(tmp_path: Path) -> None:
    secret, ca = tmp_path / "password", tmp_path / "ca.pem"
    secret.write_text("hush\n")
    ca.write_text("")
    words = [
        "--broker",
        "mqtts://main:8883",
        "--username",
        "pi",
        "--password-file",
        str(secret),
        "--ca-file",
        str(ca),
    ]
    found = load(*words, "--data-broker", "mqtts://board:8884").data_broker_options()
    assert found is not None
    assert (found.host, found.port, found.tls) == ("board", 8884, True)
    assert (found.username, found.password, found.ca_file) == ("pi", "hush", str(ca))
    plain = load("--username", "pi", "--password-file", str(secret), "--data-broker", "mqtt://board")
    options = plain.data_broker_options()
    assert options is not None
    assert (options.port, options.tls, options.ca_file) == (1883, False, None)
    assert (options.username, options.password) == (None, None)
    assert load().data_broker_options() is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mqtt://board:1884", "field data_broker: mqtt://board:1884: expected mqtts://"),
        ("board:1884", "field data_broker: 'board:1884': expected a URL such as"),
        ("mqtts://pi@board", "field data_broker: 'mqtts://pi@board': expected no user name"),
    ],
)
def test_a_wrong_data_broker_is_named(url: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=message):
        load("--broker", "mqtts://main", "--data-broker", url).data_broker_options()
    assert main(["--check-config", "--broker", "mqtts://main", "--data-broker", url]) == 3
    assert message.split(":")[0] in capsys.readouterr().err
