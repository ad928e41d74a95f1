"""Where the broker is: URLs, credentials, files."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemq.errors import ConfigError
from slicemq.options import BrokerOptions


@pytest.mark.parametrize(
    ("url", "shown", "tls", "transport"),
    [
        ("broker", "mqtt://broker:1883", False, "tcp"),
        ("broker:1999", "mqtt://broker:1999", False, "tcp"),
        ("mqtt://10.0.0.7", "mqtt://10.0.0.7:1883", False, "tcp"),
        ("mqtts://b.example", "mqtts://b.example:8883", True, "tcp"),
        ("ws://b", "ws://b:9001/mqtt", False, "websockets"),
        ("wss://b:444/x/y", "wss://b:444/x/y", True, "websockets"),
        ("mqtt://[::1]:1884", "mqtt://[::1]:1884", False, "tcp"),
        ("[::1]:1884", "mqtt://[::1]:1884", False, "tcp"),
    ],
)
def test_urls(url: str, shown: str, tls: bool, transport: str) -> None:
    options = BrokerOptions.from_url(url)
    assert (options.describe(), options.tls, options.transport) == (shown, tls, transport)


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("http://b", "scheme 'http'"),
        ("mqtt://", "host name"),
        ("", "host name"),
        ("mqtt://b:99999", "[Pp]ort"),
        ("mqtt://b:x", "[Pp]ort"),
        ("mqtt://b:0", "port 0"),
        ("mqtt://b/path", "path '/path'"),
        ("mqtt://b c", "host name"),
        ("mqtt://u:geheim@b", "password file"),
        ("ws://b/mqtt?x=1", "after the path"),
    ],
)
def test_wrong_urls_name_the_wrong_part(url: str, names: str) -> None:
    with pytest.raises(ConfigError, match=names) as caught:
        BrokerOptions.from_url(url)
    assert "geheim" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_an_url_or_a_config_error(text: str) -> None:
    try:
        options = BrokerOptions.from_url(text)
    except ConfigError:
        return
    assert options.host
    assert 0 < options.port < 65536


def test_user_of_the_url_and_of_the_option(tmp_path: Path) -> None:
    assert BrokerOptions.from_url("mqtt://ann@b").username == "ann"
    assert BrokerOptions.from_url("mqtt://ann@b", username="bob").username == "bob"


def test_password_is_the_first_line_and_stays_out_of_texts(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("geheim \nsecond line\n")
    file.chmod(0o600)
    options = BrokerOptions.from_url("b", username="ann", password_file=str(file))
    assert options.password == "geheim "
    assert "geheim" not in repr(options) + options.describe()


def test_password_that_everybody_can_read_is_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "password"
    file.write_text("geheim\n")
    file.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        BrokerOptions.from_url("b", username="ann", password_file=str(file))
    assert str(file) in caplog.text
    assert "geheim" not in caplog.text


@pytest.mark.parametrize("content", [None, b"", b"\nsecond\n", b"\xff\xfe\n"])
def test_password_file_that_is_missing_empty_or_no_text(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=str(file)):
        BrokerOptions.from_url("b", username="ann", password_file=str(file))


def test_password_without_user(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("geheim\n")
    with pytest.raises(ConfigError, match="user name"):
        BrokerOptions.from_url("b", password_file=str(file))


def test_tls_files_need_a_tls_url_and_must_be_readable(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match=str(file)):
        BrokerOptions.from_url("mqtts://b", ca_file=str(file))
    file.write_text("x")
    with pytest.raises(ConfigError, match="mqtts"):
        BrokerOptions.from_url("mqtt://b", ca_file=str(file))
    with pytest.raises(ConfigError, match="certificate file"):
        BrokerOptions.from_url("mqtts://b", key_file=str(file))
    assert BrokerOptions.from_url("mqtts://b", ca_file=str(file)).ca_file == str(file)


def test_travels_as_json() -> None:
    options = BrokerOptions(host="b", port=1, tls=True, username="ann", password="geheim", mqtt5=True)
    assert BrokerOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ([], "object"),
        ({"port": "1883"}, "'port'"),
        ({"port": True}, "'port'"),
        ({"port": 70000}, "'port'"),
        ({"host": ""}, "'host'"),
        ({"transport": "udp"}, "'transport'"),
        ({"tls": 1}, "'tls'"),
        ({"password": 5}, "'password'"),
        ({"hots": "b"}, "'hots'"),
    ],
)
def test_wrong_dicts_name_the_field(body: object, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        BrokerOptions.from_dict(body)
