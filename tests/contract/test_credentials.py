"""Passwords, TLS and client certificates, against a mosquitto that wants them."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emulator.brokers import Mosquitto, free_port
from slicemq.datalink import open_link
from slicemq.errors import BrokerError, BrokerRefusedError
from slicemq.options import BrokerOptions, LinkKind
from slicemq.session import Session
from tests.waiting import eventually

ANONYMOUS = "allow_anonymous true"


def attempt(options: BrokerOptions, timeout: float = 10.0) -> None:
    """Connect with `options`, read a document back, disconnect."""
    session = Session(options, "a")
    session.own("slicemq/v1/c/nodes/a/state", b"ready")
    session.start()
    try:
        session.wait_up(timeout)
        assert session.snapshot("slicemq/v1/c/#") in ({}, {"slicemq/v1/c/nodes/a/state": b"ready"})
    finally:
        session.stop()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A mosquitto with one user, ann."""
    users = tmp_path_factory.mktemp("users") / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "ann", "geheim"], check=True)
    with Mosquitto(
        replace={
            ANONYMOUS: "allow_anonymous false",
            "#password_file /etc/mosquitto/slicemq.passwd": f"password_file {users}",
        }
    ) as running:
        yield running


def test_user_and_password_file(closed: Mosquitto, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("geheim\n")
    password.chmod(0o600)
    attempt(BrokerOptions.from_url(f"mqtt://ann@127.0.0.1:{closed.port}", password_file=str(password)))


@pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("eve", "geheim"), (None, None)])
def test_wrong_credentials_are_refused_at_once(closed: Mosquitto, user: str | None, password: str | None) -> None:
    options = replace(closed.options, username=user, password=password)
    with pytest.raises(BrokerRefusedError, match="not authorised") as caught:
        attempt(options, timeout=30)
    assert closed.url in str(caught.value)
    assert (f"user {user!r}" if user else "no user name was given") in str(caught.value)


class Certificates:
    """An authority, and certificates that it signed (made with openssl)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority("ca")
        self.sign("server", "127.0.0.1", "subjectAltName=IP:127.0.0.1")
        self.sign("client", "node-1", "extendedKeyUsage=clientAuth")
        self.authority("other-ca")

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=self.folder)

    def authority(self, name: str) -> None:
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt",
        )  # fmt: skip

    def sign(self, name: str, subject: str, extension: str) -> None:
        (self.folder / f"{name}.ext").write_text(extension)
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.csr",
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.crt",
        )  # fmt: skip


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program makes the certificates for this test")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls(certificates: Certificates) -> Iterator[tuple[Mosquitto, int, int]]:
    """A mosquitto with TLS on one port, and on another one that wants client certificates too."""
    plain, mutual = free_port(), free_port()
    files = [f"certfile {certificates.path('server.crt')}", f"keyfile {certificates.path('server.key')}"]
    extra = [
        f"listener {plain} 127.0.0.1", *files,
        f"listener {mutual} 127.0.0.1", *files,
        f"cafile {certificates.path('ca.crt')}", "require_certificate true",
    ]  # fmt: skip
    with Mosquitto(extra=extra) as running:
        yield running, plain, mutual


def test_tls(tls: tuple[Mosquitto, int, int], certificates: Certificates) -> None:
    url = f"mqtts://127.0.0.1:{tls[1]}"
    attempt(BrokerOptions.from_url(url, ca_file=certificates.path("ca.crt")))


@pytest.mark.parametrize(("ca_file", "hint"), [(None, "CA file needed"), ("other-ca.crt", "the right CA file")])
def test_an_authority_that_is_not_ours(
    tls: tuple[Mosquitto, int, int], certificates: Certificates, ca_file: str | None, hint: str
) -> None:
    given = certificates.path(ca_file) if ca_file else None
    with pytest.raises(BrokerError, match=f"not trusted.*{hint}"):
        attempt(BrokerOptions.from_url(f"mqtts://127.0.0.1:{tls[1]}", ca_file=given), timeout=1)


def test_a_certificate_for_another_host(tls: tuple[Mosquitto, int, int], certificates: Certificates) -> None:
    options = BrokerOptions.from_url(f"mqtts://localhost:{tls[1]}", ca_file=certificates.path("ca.crt"))
    with pytest.raises(BrokerError, match=r"not trusted.*localhost"):
        attempt(options, timeout=1)


def test_client_certificate(tls: tuple[Mosquitto, int, int], certificates: Certificates) -> None:
    url, ca_file = f"mqtts://127.0.0.1:{tls[2]}", certificates.path("ca.crt")
    attempt(
        BrokerOptions.from_url(
            url,
            ca_file=ca_file,
            cert_file=certificates.path("client.crt"),
            key_file=certificates.path("client.key"),
        )
    )
    with pytest.raises(BrokerError, match="client certificate"):
        attempt(BrokerOptions.from_url(url, ca_file=ca_file), timeout=1)


@pytest.fixture(params=["own", "paho"])
def kind(request: pytest.FixtureRequest) -> LinkKind:
    kind: LinkKind = request.param
    return kind


def test_frames_over_tls_in_both_directions_at_once(
    tls: tuple[Mosquitto, int, int], certificates: Certificates, kind: LinkKind
) -> None:
    options = BrokerOptions.from_url(
        f"mqtts://127.0.0.1:{tls[2]}",
        ca_file=certificates.path("ca.crt"),
        cert_file=certificates.path("client.crt"),
        key_file=certificates.path("client.key"),
    )
    sizes = [0, 5, 5000, 16_384, 70_000, 3_000_000, 1, 20_000_000]
    came: dict[str, list[bytes]] = {"a": [], "b": []}
    links = {}
    for name in came:
        links[name] = open_link(
            options,
            name,
            on_frame=lambda topic, payload: came[topic[-1]].append(bytes(payload)),
            kind=kind,
        )
        links[name].subscribe([f"slicemq/v1/c/to/{name}"])
        links[name].start()
        links[name].wait_up(10)
    payloads = [os.urandom(size) for size in sizes]

    def work(sender: str, receiver: str) -> None:
        for payload in payloads:
            assert links[sender].send(f"slicemq/v1/c/to/{receiver}", [payload[:7], memoryview(payload)[7:]])

    threads = [threading.Thread(target=work, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for one in threads:
        one.start()
    eventually(lambda: all(len(frames) == len(payloads) for frames in came.values()), timeout=60)
    for one in threads:
        one.join()
    assert came == {"a": payloads, "b": payloads}
    assert all(link.pending == 0 for link in links.values())
    for link in links.values():
        link.stop()


def test_many_threads_over_tls_send_whole_frames(
    tls: tuple[Mosquitto, int, int], certificates: Certificates, kind: LinkKind
) -> None:
    options = BrokerOptions.from_url(f"mqtts://127.0.0.1:{tls[1]}", ca_file=certificates.path("ca.crt"))
    frames: list[bytes] = []
    link = open_link(options, "a", on_frame=lambda _, payload: frames.append(bytes(payload)), kind=kind)
    link.subscribe(["slicemq/v1/c/x"])
    link.start()
    link.wait_up(10)

    def work(mark: int) -> None:
        for turn in range(10):
            assert link.send("slicemq/v1/c/x", [bytes([mark]) * (1 + turn * 40_000), bytes([mark])])

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    eventually(lambda: len(frames) == 60, timeout=30)
    assert all(len(set(frame)) == 1 for frame in frames)
    link.stop()


def test_both_links_have_the_same_words_for_what_is_wrong(
    tls: tuple[Mosquitto, int, int],
    closed: Mosquitto,
    certificates: Certificates,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ca_file = certificates.path("ca.crt")
    (tmp_path / "bad.crt").write_text("no certificate")
    wrong = [
        BrokerOptions.from_url(f"mqtts://127.0.0.1:{tls[1]}"),
        BrokerOptions.from_url(f"mqtts://localhost:{tls[1]}", ca_file=ca_file),
        BrokerOptions.from_url(f"mqtts://127.0.0.1:{tls[2]}", ca_file=ca_file),
        BrokerOptions.from_url(f"mqtts://127.0.0.1:{tls[1]}", ca_file=str(tmp_path / "bad.crt")),
        BrokerOptions.from_url(f"mqtts://127.0.0.1:{tls[0].port}", ca_file=ca_file),
        BrokerOptions.from_url(f"mqtt://127.0.0.1:{tls[1]}"),
        BrokerOptions.from_url("mqtt://no-such-host.invalid"),
        BrokerOptions.from_url(f"mqtt://127.0.0.1:{free_port()}"),
        replace(closed.options, username="ann", password="wrong"),
    ]
    kinds: tuple[LinkKind, ...] = ("own", "paho")
    for options in wrong:
        errors = []
        for kind in kinds:
            caplog.clear()
            link = open_link(options, kind, on_frame=lambda *_: None, kind=kind)
            link.start()
            record = eventually(lambda: caplog.records)[0]
            link.stop()
            # What follows is OpenSSL's own text.
            errors.append(record.getMessage().removeprefix(f"{kind}: ").partition("? (")[0])
        assert errors[0] == errors[1]
