"""Where the broker is and how to get in: the options that everything that connects takes."""

from __future__ import annotations

import logging
import os
import re
import stat
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from slicemq.errors import ConfigError

logger = logging.getLogger(__name__)

Transport = Literal["tcp", "websockets"]
LinkKind = Literal["auto", "own", "paho"]
# For measurements and trouble in the field; it wins over what the code asks for.
KIND_VARIABLE = "SLICEMQ_DATA_LINK"
_LINK_KINDS = ("auto", "own", "paho")
# Scheme -> transport, TLS, port when the URL names none.
_SCHEMES: dict[str, tuple[Transport, bool, int]] = {
    "mqtt": ("tcp", False, 1883),
    "mqtts": ("tcp", True, 8883),
    "ws": ("websockets", False, 9001),
    "wss": ("websockets", True, 443),
}
_DEFAULT_PATH = "/mqtt"
MAX_URL = 300
_SCHEME_NAMES = {(transport, tls): scheme for scheme, (transport, tls, _) in _SCHEMES.items()}


@dataclass(frozen=True)
class BrokerOptions:
    """One broker: address, transport, credentials. Holds no open file and travels as JSON (`to_dict`)."""

    host: str = "localhost"
    port: int = 1883
    transport: Transport = "tcp"
    path: str = _DEFAULT_PATH
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    mqtt5: bool = False

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        username: str | None = None,
        password_file: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
    ) -> BrokerOptions:
        """Read `mqtt://`, `mqtts://`, `ws://` or `wss://[user@]host[:port][/path]`, or a bare `host[:port]`.

        `username` wins over the URL's. `password_file`'s first line is the password. `ca_file`, `cert_file` and
        `key_file` are PEM files and need a TLS scheme (`mqtts`, `wss`). Raises ConfigError, which names what is
        wrong: the URL's part, or the file.
        """
        scheme, host, port, path, user = _split(url)
        transport, tls, usual_port = _SCHEMES[scheme]
        for name, file in (("CA file", ca_file), ("certificate file", cert_file), ("key file", key_file)):
            if file is None:
                continue
            if not tls:
                raise ConfigError(
                    f"{name} {file}: is for TLS, but broker URL {_shown(url)!r} is not mqtts:// or wss://"
                )
            _check_readable(name, file)
        if key_file is not None and cert_file is None:
            raise ConfigError(f"key file {key_file}: expected a certificate file with it")
        password = None if password_file is None else _read_password(password_file)
        login = username if username is not None else user
        if password is not None and not login:
            raise ConfigError(f"password file {password_file}: expected a user name with it (MQTT wants both)")
        return cls(
            host=host,
            port=usual_port if port is None else port,
            transport=transport,
            path=path,
            tls=tls,
            username=login,
            password=password,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
        )

    def at(self, url: str) -> BrokerOptions:
        """The data broker at `url`: with TLS entered as this broker is, with its user, password and TLS files.

        Without TLS it is entered without a user: the URL is another node's word, and whoever listens there must not
        be shown this broker's password. Raises ConfigError for what is no URL of a data broker, and for one without
        TLS when this broker has TLS, because the frames must not travel in the clear.
        """
        fault = data_broker_fault(url)
        if fault:
            raise ConfigError(f"data broker: {fault}")
        scheme, host, port, path, _ = _split(url)
        transport, tls, usual_port = _SCHEMES[scheme]
        if self.tls and not tls:
            raise ConfigError(f"data broker {url}: expected mqtts:// or wss://, as the main broker has")
        port = usual_port if port is None else port
        there = replace(self, host=host, port=port, transport=transport, path=path, tls=tls)
        if tls:
            return there
        return replace(there, username=None, password=None, ca_file=None, cert_file=None, key_file=None)

    def describe(self) -> str:
        """The broker as a URL without any secret, for messages: `mqtt://host:1883`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        path = self.path if self.transport == "websockets" else ""
        return f"{_SCHEME_NAMES[self.transport, self.tls]}://{host}:{self.port}{path}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, the password among them: for a child process's standard input, never for a log."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Any) -> BrokerOptions:
        """The inverse of `to_dict`; raises ConfigError that names a wrong, unknown or missing field."""
        if not isinstance(body, dict):
            raise ConfigError(f"broker options: expected an object, got {type(body).__name__}")
        known = {one.name for one in fields(cls)}
        for name in body:
            if name not in known:
                raise ConfigError(f"broker options: unknown field {name!r}")
        for name, value in body.items():
            _check_field(name, value)
        return cls(**body)


def data_broker_fault(url: str) -> str:
    """What is wrong with the URL of a data broker as documents carry it; empty when nothing is.

    It names its scheme, and neither user nor password: each node comes with its own.
    """
    if len(url) > MAX_URL:
        return f"a URL of {len(url)} characters, expected at most {MAX_URL}"
    if "://" not in url or not url.isprintable():
        return f"{_shown(url)!r}: expected a URL such as mqtt://192.0.2.7:1884"
    try:
        *_, user = _split(url)
    except ConfigError as error:
        return str(error)
    return "" if user is None else f"{_shown(url)!r}: expected no user name (nodes use that of their main broker)"


def _check_field(name: str, value: Any) -> None:
    if name == "port":
        good = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536
        expected = "a whole number from 1 to 65535"
    elif name in ("tls", "mqtt5"):
        good, expected = isinstance(value, bool), "true or false"
    elif name == "transport":
        good, expected = value in ("tcp", "websockets"), "tcp or websockets"
    elif name in ("host", "path"):
        good, expected = isinstance(value, str) and value != "", "a text"
    else:
        good, expected = value is None or isinstance(value, str), "a text or null"
    if not good:
        shown = "" if name == "password" else f", got {value!r}"
        raise ConfigError(f"broker options: field {name!r}: expected {expected}{shown}")


def _shown(url: str) -> str:
    """`url` as it may be shown: what may be a password is left out."""
    return re.sub(r"(//[^/@:]*):[^/]*@", r"\1:...@", url)


def _split(url: str) -> tuple[str, str, int | None, str, str | None]:
    """Scheme, host, port, path and user of a broker URL."""
    shown = _shown(url)
    full = url if "://" in url else f"mqtt://{url}"
    try:
        parts = urlsplit(full)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"broker URL {shown!r}: {error}") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"broker URL {shown!r}: scheme {parts.scheme!r}, expected {', '.join(_SCHEMES)}")
    if not host or any(character.isspace() for character in full):
        raise ConfigError(f"broker URL {shown!r}: expected a host name, as in mqtt://broker.example:1883")
    if port == 0:
        raise ConfigError(f"broker URL {shown!r}: port 0, expected 1 to 65535")
    if parts.password is not None:
        raise ConfigError(f"broker URL {shown!r}: holds a password, expected it in a password file")
    if parts.query or parts.fragment:
        raise ConfigError(f"broker URL {shown!r}: expected nothing after the path")
    websockets = _SCHEMES[parts.scheme][0] == "websockets"
    if not websockets and parts.path not in ("", "/"):
        raise ConfigError(f"broker URL {shown!r}: path {parts.path!r}, expected none with {parts.scheme}://")
    path = parts.path if websockets and parts.path not in ("", "/") else _DEFAULT_PATH
    return parts.scheme, host, port, path, unquote(parts.username) if parts.username else None


def _check_readable(name: str, file: str) -> None:
    try:
        with Path(file).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{name} {file}: cannot be read ({error.strerror or error})") from None


def _read_password(file: str) -> str:
    try:
        with Path(file).open(encoding="utf-8") as lines:
            mode = os.fstat(lines.fileno()).st_mode
            password = lines.readline(65536).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"password file {file}: cannot be read ({reason})") from None
    if not password:
        raise ConfigError(f"password file {file}: expected the password in the first line, which is empty")
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        logger.warning("password file %s can be read by every user of this machine (chmod 600 helps)", file)
    return password


def link_kind(broker: BrokerOptions, kind: LinkKind = "auto") -> Literal["own", "paho"]:
    """Which slicemq.datalink carries frames to `broker`: the variable SLICEMQ_DATA_LINK, else `kind`, says it.

    Raises ConfigError for another word than auto, own or paho, and for `own` where it cannot be.
    """
    named = os.environ.get(KIND_VARIABLE, "")
    where = f"environment variable {KIND_VARIABLE}" if named else "kind of data link"
    asked = named or kind
    if asked not in _LINK_KINDS:
        raise ConfigError(f"{where}: {asked[:80]!r}, expected {', '.join(_LINK_KINDS)}")
    able = broker.transport == "tcp" and not broker.mqtt5
    if asked == "own" and not able:
        spoken = "MQTT 5" if broker.mqtt5 else "WebSocket"
        raise ConfigError(f"{where}: 'own' does not speak {spoken} ({broker.describe()}), expected auto or paho")
    return "own" if able and asked != "paho" else "paho"
