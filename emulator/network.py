"""A site's network on one machine: a namespace for each node, a switch, and links with rates (Linux, root).

The switch is a bridge in a namespace of its own, so all that the host itself gets is one interface, towards the
client. A link is a veth pair with a token bucket (tbf) at each end: what a node sends is held to its rate by the
end in the node's namespace, what it receives by the end at the switch. Rates are of Ethernet bytes, headers
included: TCP carries 1448/1514 of them. IPv6 is off. TCP's congestion control is cubic where the kernel has it, as
on most boards.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from emulator.ownership import MARK
from slicemq.errors import ConfigError, SliceMQError

# For measurements of networks (RFC 2544): no site uses it.
_RANGE = ipaddress.IPv4Network("198.18.0.0/15")
_PREFIX = 22
_LOCK = Path("/run") / f"{MARK}.lock"
_FRAME = 1514
# A bucket holds a millisecond at the rate, and at least two packets: a larger one lets a frame after a pause
# through faster than the link is, a smaller one loses rate whenever the timer is late.
_BUCKET_SECONDS = 0.001
_LEAST_BUCKET = 2 * _FRAME
# What waits before a link at most: more makes other messages wait long, less makes TCP lose many packets.
_QUEUE_SECONDS = 0.05
_LEAST_QUEUE = 128 * 1024
_SYSCTLS = {
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    "net/ipv4/tcp_congestion_control": "cubic",
}


@dataclass
class Port:
    """One link: its namespace (empty: the host's own), its address, its rates in bit/s (None: unlimited)."""

    namespace: str
    address: str
    inner: str
    outer: str
    up: float | None = None
    down: float | None = None
    connected: bool = True

    def prefix(self) -> list[str]:
        """Words in front of a command so that it runs in the namespace."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}"] if self.namespace else []


def check_possible() -> None:
    """Raises ConfigError, which says what is missing, where namespaces and links cannot be made."""
    if os.geteuid() != 0:
        raise ConfigError(
            "emulating links takes root (network namespaces): run it with sudo, or with --no-isolation (plain "
            "processes, no link rates)"
        )
    for program, package in (("ip", "iproute2"), ("tc", "iproute2"), ("nsenter", "util-linux")):
        if not _found(program):
            raise ConfigError(f"emulating links takes the program {program}: install the package {package}")


class Network:
    """A switch and its links, as a context manager. `tag` marks all that it makes (emulator.ownership)."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._switch = f"{tag}-_switch"
        self._host_link = f"smq{secrets.token_hex(4)}"
        self._subnet: ipaddress.IPv4Network | None = None
        self.ports: dict[str, Port] = {}

    def __enter__(self) -> Network:
        check_possible()
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, SliceMQError) and not isinstance(error, ConfigError):
                raise ConfigError(
                    f"namespaces and links cannot be made here, although this is root ({error}): a container needs "
                    "CAP_NET_ADMIN and CAP_SYS_ADMIN, or --no-isolation"
                ) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def client(self) -> str:
        """The name of the host's own port, on which the client and the coordinator are."""
        return ""

    def add(self, names: Sequence[str]) -> None:
        """Make a namespace and an unlimited link for each name, and give them the next addresses."""
        assert self._subnet is not None
        hosts = list(self._subnet.hosts())
        begun = len(self.ports)
        if begun + len(names) > len(hosts):
            raise ConfigError(f"{begun + len(names)} links: expected at most {len(hosts)}")
        made = {
            name: Port(f"{self._tag}-{name}", str(hosts[place]), "eth0", f"p{place}")
            for place, name in enumerate(names, begun)
        }
        # Noted before they are made: who is interrupted in between removes them too.
        self.ports |= made
        _batch("ip", [f"netns add {port.namespace}" for port in made.values()])
        for port in made.values():
            _settle(port.namespace)
        _batch(
            "ip",
            [f"link add {p.outer} type veth peer name {p.inner} netns {p.namespace}" for p in made.values()]
            + [f"link set {p.outer} master br0 up" for p in made.values()],
            self._switch,
        )
        for port in made.values():
            _batch(
                "ip",
                [
                    "link set lo up",
                    f"addr add {port.address}/{_PREFIX} dev {port.inner}",
                    f"link set {port.inner} up",
                ],
                port.namespace,
            )

    def set_rate(self, name: str, *, up: float | None = None, down: float | None = None) -> None:
        """Change what a link carries, in bit/s; None leaves a direction as it is."""
        port = self.ports[name]
        if up is not None:
            _shape(port.namespace, port.inner, up, change=port.up is not None)
            port.up = up
        if down is not None:
            _shape(self._switch, port.outer, down, change=port.down is not None)
            port.down = down

    def disconnect(self, name: str) -> None:
        """Pull the plug at the switch: the node sees its link without a carrier."""
        _batch("ip", [f"link set {self.ports[name].outer} down"], self._switch)
        self.ports[name].connected = False

    def connect(self, name: str) -> None:
        """Put the plug in again."""
        _batch("ip", [f"link set {self.ports[name].outer} up"], self._switch)
        self.ports[name].connected = True

    def traffic(self) -> dict[str, tuple[int, int]]:
        """Bytes that each node sent and received so far, as the interfaces at the switch count them."""
        text = _run(["nsenter", f"--net=/run/netns/{self._switch}", "cat", "/proc/net/dev"])
        counts = {}
        for line in text.splitlines()[2:]:
            device, _, rest = line.partition(":")
            counts[device.strip()] = [int(field) for field in rest.split()]
        # What the switch receives on a port the node has sent.
        return {name: (counts[port.outer][0], counts[port.outer][8]) for name, port in self.ports.items()}

    def close(self) -> None:
        """Remove the namespaces, and with them all links. Processes in them must have ended."""
        _run(["ip", "link", "del", self._host_link], check=False)
        for port in self.ports.values():
            if port.namespace:
                _run(["ip", "netns", "del", port.namespace], check=False)
        _run(["ip", "netns", "del", self._switch], check=False)
        self.ports.clear()

    def _open(self) -> None:
        _run(["ip", "netns", "add", self._switch])
        _settle(self._switch)
        _batch(
            "ip",
            ["link set lo up", "link add br0 type bridge stp_state 0 mcast_snooping 0", "link set br0 up"],
            self._switch,
        )
        outer, inner = "p0", self._host_link
        _run(["ip", "link", "add", inner, "type", "veth", "peer", "name", outer, "netns", self._switch])
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{inner}/disable_ipv6").write_text("1")
        _batch("ip", [f"link set {outer} master br0 up"], self._switch)
        with _alone():
            self._subnet = _free_subnet()
            address = str(next(self._subnet.hosts()))
            _batch("ip", [f"addr add {address}/{_PREFIX} dev {inner}", f"link set {inner} up"])
        self.ports[self.client] = Port("", address, inner, outer)


def _shape(namespace: str, device: str, rate: float, *, change: bool) -> None:
    bucket = max(_LEAST_BUCKET, round(rate / 8 * _BUCKET_SECONDS))
    queue = max(_LEAST_QUEUE, round(rate / 8 * _QUEUE_SECONDS))
    verb = "change" if change else "add"
    words = f"qdisc {verb} dev {device} root handle 1: tbf rate {round(rate)}bit burst {bucket} limit {queue}"
    _batch("tc", [words], namespace)


def _settle(namespace: str) -> None:
    """The kernel's settings for a new namespace; a kernel without one of them does without."""
    script = "; ".join(f"echo {value} > /proc/sys/{name}" for name, value in _SYSCTLS.items())
    _run(["nsenter", f"--net=/run/netns/{namespace}", "sh", "-c", f"({script}) 2>/dev/null; true"])


def _free_subnet() -> ipaddress.IPv4Network:
    """A subnet that no route of the host's touches."""
    taken = []
    for route in json.loads(_run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]"):
        with contextlib.suppress(ValueError):
            taken.append(ipaddress.IPv4Network(route["dst"], strict=False))
    free = [net for net in _RANGE.subnets(new_prefix=_PREFIX) if not any(net.overlaps(one) for one in taken)]
    if not free:
        raise ConfigError(f"no free subnet for an emulated network: expected one in {_RANGE} without a route")
    return secrets.choice(free)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """While runs side by side choose their subnets, one at a time."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _batch(program: str, lines: Sequence[str], namespace: str = "") -> None:
    words = [program, *(["-n", namespace] if namespace else []), "-batch", "-"]
    _run(words, "\n".join(lines) + "\n")


def _run(words: Sequence[str], text: str | None = None, *, check: bool = True) -> str:
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        asked = " ".join(words) + (f" ({'; '.join(text.splitlines())})" if text else "")
        raise SliceMQError(f"{asked}: {done.stderr.strip()}")
    return done.stdout


def _found(program: str) -> bool:
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return any(os.access(Path(folder) / program, os.X_OK) for folder in folders if folder)
