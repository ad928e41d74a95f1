"""The embedded broker: amqtt on TCP and WebSocket, in a process of its own.

amqtt is used through its public seams: the broker is configured with external listeners, and the sockets, readers
and writers below are handed to it. They give what its own listeners lack: a port that the system chooses, a clear
error for a taken port, WebSocket messages above 1 MB, and an end to clients that have fallen silent.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slicemq.errors import BrokerError, MissingDependencyError, UsageError

logger = logging.getLogger(__name__)

# Bytes that one connection may have waiting in the broker before it stops reading (asyncio doubles it).
READ_AHEAD = 1 << 20
MAX_MESSAGE = 64 << 20
_SHUTDOWN_SECONDS = 1.0


@dataclass(frozen=True)
class Address:
    """Where the broker listens: `ws_port` is None without WebSocket."""

    host: str
    port: int
    ws_port: int | None

    def urls(self) -> list[str]:
        """What clients are to be given as `--broker`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        found = [f"mqtt://{host}:{self.port}"]
        return found if self.ws_port is None else [*found, f"ws://{host}:{self.ws_port}"]


def run(
    host: str = "127.0.0.1",
    port: int = 1883,
    ws_port: int | None = 9001,
    *,
    on_ready: Callable[[Address], None] = lambda address: None,
) -> None:
    """Run the broker until SIGINT or SIGTERM; it keeps everything in memory, so it ends at once.

    Port 0 lets the system choose; `ws_port` None means no WebSocket. `on_ready` is called once with the address
    when it listens. Raises MissingDependencyError without amqtt, UsageError for a port that is no port, BrokerError
    for one that is taken.
    """
    for name, number in (("port", port), ("WebSocket port", ws_port or 0)):
        if not 0 <= number < 65536:
            raise UsageError(f"{name} {number}: expected 0 to 65535")
    try:
        import amqtt.broker  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"the embedded broker needs the package {error.name or 'amqtt'}: pip install 'slicemq[broker]'"
        ) from error
    _quieten()
    asyncio.run(_serve(host, port, ws_port, on_ready))


def _quieten() -> None:
    # amqtt warns of every client that goes away, and websockets logs every handshake that a port scan breaks off.
    chatty = logging.getLogger().getEffectiveLevel() <= logging.DEBUG
    for name, level in (("amqtt", logging.ERROR), ("transitions", logging.ERROR), ("websockets", logging.CRITICAL)):
        logging.getLogger(name).setLevel(logging.INFO if chatty else level)


async def _serve(host: str, port: int, ws_port: int | None, on_ready: Callable[[Address], None]) -> None:
    from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType

    from broker_config.adapters import Broker

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_loop_error)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    tcp_socket = _bind(host, port, "port")
    ws_socket = None if ws_port is None else _bind(host, ws_port, "WebSocket port")
    broker = Broker(
        BrokerConfig(
            listeners={
                "default": ListenerConfig(type=ListenerType.EXTERNAL),
                "ws": ListenerConfig(type=ListenerType.EXTERNAL),
            },
            plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        )
    )
    await broker.start()
    servers: list[Any] = [await _listen_tcp(broker, tcp_socket)]
    if ws_socket is not None:
        servers.append(await _listen_websocket(broker, ws_socket))
    on_ready(Address(host, tcp_socket.getsockname()[1], None if ws_socket is None else ws_socket.getsockname()[1]))
    await stop.wait()
    for server in servers:
        server.close()
    try:
        await asyncio.wait_for(broker.shutdown(), _SHUTDOWN_SECONDS)
    except asyncio.TimeoutError:
        logger.debug("clients were cut off")


def _bind(host: str, port: int, what: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        # A broker that is started again must not wait for the old one's connections to be forgotten.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(512)
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "another program listens there already",
            errno.EACCES: "not allowed (ports below 1024 need privileges)",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        raise BrokerError(f"cannot listen on {host}, {what} {port}: {reason}") from None
    bound.setblocking(False)
    return bound


async def _listen_tcp(broker: Any, bound: socket.socket) -> Any:
    from broker_config.adapters import StreamReader, StreamWriter

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio itself sets TCP_NODELAY.
        try:
            await _hand_over(broker, StreamReader(reader), StreamWriter(writer), "default")
        finally:
            writer.close()

    return await asyncio.start_server(connected, sock=bound, limit=READ_AHEAD)


async def _listen_websocket(broker: Any, bound: socket.socket) -> Any:
    import websockets.asyncio.server
    from websockets import Subprotocol

    from broker_config.adapters import WebSocketReader, WebSocketWriter

    async def connected(connection: Any) -> None:
        await _hand_over(broker, WebSocketReader(connection), WebSocketWriter(connection), "ws")

    return await websockets.asyncio.server.serve(
        connected,
        sock=bound,
        subprotocols=[Subprotocol("mqtt")],
        max_size=MAX_MESSAGE,
        compression=None,
        ping_interval=None,
    )


async def _hand_over(broker: Any, reader: Any, writer: Any, listener: str) -> None:
    try:
        await broker.external_connected(reader, writer, listener)
    except RuntimeError as error:
        # amqtt iterates over its subscriptions while others subscribe. The connection is useless after that: it is
        # closed, and the client comes again.
        logger.info("a connection ended by an error of amqtt: %s", error)


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    # What amqtt's tasks raise when their client goes away in the middle.
    if isinstance(error, ConnectionError | TimeoutError | asyncio.TimeoutError | asyncio.CancelledError):
        logger.debug("a client went away: %s", error)
    else:
        logger.error("amqtt: %s", context.get("message"), exc_info=error)


def main() -> None:
    """Run it from a script: `python -m broker_config.embedded [HOST [PORT [WS_PORT]]]`."""
    import sys

    words = sys.argv[1:]
    on_ready = functools.partial(_print_ready)
    run(
        words[0] if words else "127.0.0.1",
        int(words[1]) if len(words) > 1 else 1883,
        int(words[2]) if len(words) > 2 else None,
        on_ready=on_ready,
    )


def _print_ready(address: Address) -> None:
    import sys

    sys.stdout.write(" ".join(["ready", *address.urls()]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
