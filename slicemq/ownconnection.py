"""One life of one MQTT 3.1.1 connection of our own, over TCP or TLS: what connection.py does with paho, for frames.

A payload is read from the socket into its final place, and sent from where it lies.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from slicemq import mqtt_encode
from slicemq import mqtt_packets as packets
from slicemq.buffers import BufferPool
from slicemq.endpoint import CONNECT_SECONDS, Events, Wakeup, closed_early, connect_reason, error_words, refusal
from slicemq.errors import BrokerError, OversizeError
from slicemq.mqtt_packets import MAX_PAYLOAD, Decoder, PacketError
from slicemq.options import BrokerOptions
from slicemq.outbox import Outbox
from slicemq.streams import Stream, open_stream

logger = logging.getLogger(__name__)

# A packet that has begun must go on: so many bytes in so many seconds, or the connection is given up.
_SLOW_SECONDS = 30.0
_SLOW_BYTES = 1024
# Reads between two looks at what else there is to do.
_READS = 64
_TRIM_SECONDS = 1.0
_MAX_UNACKNOWLEDGED = 1000
_KNOWN_TOPICS = 256
# CONNACK codes of MQTT 3.1.1 (section 3.2.2.3) in the numbers of MQTT 5.
_CODES = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}


class OwnConnection:
    """One connection. `send` and `publish` may be called on any thread, all else on the owner's.

    `wanted(topic)` says whose payloads are kept; larger ones than `max_frame` bytes are skipped.
    """

    def __init__(
        self,
        options: BrokerOptions,
        client_id: str,
        events: Events,
        wakeup: Wakeup,
        *,
        keepalive: int,
        pool: BufferPool,
        wanted: Callable[[str], bool],
        max_frame: int = MAX_PAYLOAD,
    ) -> None:
        self.reason = ""
        self.skipped = 0
        # Those of them that were asked for.
        self._refused = 0
        self._options = options
        self._client_id = client_id
        self._events = events
        self._wakeup = wakeup
        self._keepalive = keepalive
        self._pool = pool
        self._decoder = Decoder(take=pool.take, wanted=wanted, max_payload=max_frame)
        self._stream: Stream | None = None
        self._outbox: Outbox | None = None
        self._poll = select.poll()
        self._poll.register(wakeup.fileno(), select.POLLIN)
        self._mask = 0
        self._more = False
        self._connack: int | None = None
        self._ended = False
        self._detail = ""
        self._numbers = threading.Lock()
        self._number = 0
        self._unacknowledged: set[int] = set()
        self._topics: dict[str, bytes] = {}
        self._last_read = time.monotonic()
        self._pinged: float | None = None
        # Since when, and with how many bytes read by then, a packet is unfinished.
        self._slow: tuple[float, int] | None = None
        self._bytes_read = 0
        self._trimmed = self._last_read

    @property
    def pending(self) -> int:
        """Bytes that wait for the socket."""
        return 0 if self._outbox is None else self._outbox.pending

    @property
    def unacknowledged(self) -> int:
        """QoS 1 messages that wait for their PUBACK."""
        return len(self._unacknowledged)

    def open(self) -> None:
        """Connect and wait for the broker's answer; raises BrokerError or BrokerRefusedError with the reason."""
        where = self._options.describe()
        try:
            hello = mqtt_encode.encode_connect(
                self._client_id,
                keepalive=self._keepalive,
                username=self._options.username,
                password=self._options.password,
            )
            stream = open_stream(self._options)
        except (OSError, ValueError) as error:
            reason = connect_reason(error, self._options)
            raise BrokerError(f"cannot connect to {where}: {reason}") from None
        self._stream = stream
        self._outbox = Outbox(stream, self._pool, self._wakeup.set)
        self._control(hello)
        deadline = time.monotonic() + CONNECT_SECONDS
        while self._connack is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self.close()
                raise BrokerError(f"cannot connect to {where}: no answer within {CONNECT_SECONDS:g} s")
            if not self.pump(left) and self._connack is None:
                raise BrokerError(f"cannot connect to {where}: {closed_early(self._options, self._detail)}")
        if self._connack:
            self.close()
            code = _CODES.get(self._connack, self._connack)
            raise refusal(self._options, self._client_id, code, "a reason that is not known here")

    def pump(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for something to move, and move it; False when it is closed.

        Returns early when woken, or when something but messages came.
        """
        deadline = time.monotonic() + timeout
        left = timeout
        while not self._ended and self._stream is not None and self._outbox is not None:
            self._watch(self._stream, self._outbox)
            woken = news = False
            ready = self._poll.poll(0 if self._more else max(0.0, left) * 1000)
            if self._more or (not ready and self._decoder.missing):
                # Less may wait in the system than it wakes us for.
                news = self._read(self._stream)
            for descriptor, event in [] if self._ended else ready:
                if descriptor == self._wakeup.fileno():
                    self._wakeup.clear()
                    woken = True
                    continue
                if event & ~select.POLLOUT or self._stream.mask(False) & event:
                    news = self._read(self._stream) or news
                if not self._ended and self._outbox.unsent and self._stream.can_write(event):
                    self._outbox.flush()
            now = time.monotonic()
            self._look_after(now)
            left = deadline - now
            if woken or news or left <= 0:
                break
        return not self._ended

    def _watch(self, stream: Stream, outbox: Outbox) -> None:
        mask = stream.mask(outbox.unsent)
        if mask != self._mask:
            self._mask = mask
            self._poll.register(stream.fileno(), mask)

    def _read(self, stream: Stream) -> bool:
        """Read what is there; whether more than messages came."""
        decoder = self._decoder
        news = self._more = False
        try:
            for _ in range(_READS):
                space = decoder.space()
                asked = len(space)
                got = stream.read(space)
                # No view of a payload may stay here, or its memory could not be used for the next one.
                del space
                if not got:
                    self._end("the broker closed it")
                    return True
                self._bytes_read += got
                news = self._dispatch(decoder.received(got)) or news
                if self._ended:
                    return True
                if stream.drained(got, asked):
                    break
            else:
                # TLS may hold bytes of which the socket knows nothing.
                self._more = True
        except BlockingIOError:
            pass
        except PacketError as error:
            logger.warning("%s: %s sent %s", self._client_id, self._options.describe(), error)
            self._end(f"the broker broke the rules of MQTT: {error}")
            return True
        except OSError as error:
            self._end(error_words(error))
            return True
        self._last_read = time.monotonic()
        stream.expect(decoder.missing)
        return news

    def _dispatch(self, events: list[packets.Event]) -> bool:
        news = False
        for event in events:
            if type(event) is packets.Message:
                self._message(event)
            else:
                self._control_event(event)
                news = True
        return news

    def _message(self, message: packets.Message) -> None:
        self._guarded(self._events.message, message.topic, message.payload, message.retain)
        if message.packet_id:
            self._control(mqtt_encode.encode_puback(message.packet_id))

    def _control_event(self, event: packets.Event) -> None:
        if isinstance(event, packets.Suback):
            self._guarded(self._events.suback, event.packet_id, event.codes)
        elif isinstance(event, packets.Unsuback):
            self._guarded(self._events.unsuback, event.packet_id)
        elif isinstance(event, packets.Puback):
            with self._numbers:
                self._unacknowledged.discard(event.packet_id)
        elif isinstance(event, packets.Connack):
            self._connack = event.code
        elif isinstance(event, packets.Skipped):
            self.skipped += 1
            if event.packet_id:
                self._control(mqtt_encode.encode_puback(event.packet_id))
            # amqtt sends retained documents that nobody asked for: no reason to warn.
            if event.reason != packets.NOT_WANTED:
                self._refused += 1
                if self._refused & (self._refused - 1) == 0:  # not so many that they fill the log
                    logger.warning(
                        "topic %s: a frame of %d bytes skipped: %s (%d so far)",
                        *(event.topic, event.nbytes, event.reason, self._refused),
                    )

    def _look_after(self, now: float) -> None:
        """Keep the connection alive, and give it up when the broker does not."""
        outbox = self._outbox
        if self._ended or outbox is None:
            return
        if outbox.error is not None:
            self._end(outbox.error)
            return
        if now - self._trimmed > _TRIM_SECONDS:
            self._trimmed = now
            self._pool.trim()
        if not self._goes_on(now):
            self._end(f"the rest of a packet does not come ({self._decoder.missing} bytes are missing)")
            return
        if self._pinged is not None:
            if self._last_read > self._pinged:
                self._pinged = None
            elif now - self._pinged >= self._keepalive:
                self._end(f"no sign of life within {self._keepalive} s")
        elif self._connack is not None and now - min(outbox.last_write, self._last_read) >= self._keepalive:
            self._pinged = now
            self._control(mqtt_encode.PINGREQ)

    def _goes_on(self, now: float) -> bool:
        """Whether a packet that has begun goes on fast enough."""
        if not self._decoder.unfinished:
            self._slow = None
            return True
        if self._slow is not None and now - self._slow[0] > _SLOW_SECONDS and self._stream is not None:
            # Less may wait in the system than it wakes us for.
            self._read(self._stream)
            if self._bytes_read - self._slow[1] < _SLOW_BYTES:
                return False
        if self._slow is None or self._bytes_read - self._slow[1] >= _SLOW_BYTES:
            self._slow = (now, self._bytes_read)
        return True

    def send(
        self, topic: str, parts: Sequence[bytes | memoryview], *, limit: int, timeout: float, qos: int = 0
    ) -> bool:
        """Send one message; waits at most `timeout` seconds while more than `limit` bytes wait for the socket.

        False when it was not sent. Raises OversizeError for a payload that MQTT cannot carry.
        """
        outbox = self._outbox
        if self._ended or outbox is None:
            return False
        flat = [part if type(part) is bytes else _flat(part) for part in parts]
        nbytes = sum(map(len, flat))
        if nbytes > MAX_PAYLOAD:
            raise OversizeError(f"topic {topic}: a frame of {nbytes} bytes, MQTT carries {MAX_PAYLOAD}")
        name = self._topics.get(topic)
        if name is None:
            name = mqtt_encode.encode_topic(topic)
            if len(self._topics) < _KNOWN_TOPICS:
                self._topics[topic] = name
        packet_id = 0
        if qos:
            with self._numbers:
                if len(self._unacknowledged) >= _MAX_UNACKNOWLEDGED:
                    return False
                packet_id = self._next_number()
                self._unacknowledged.add(packet_id)
        header = mqtt_encode.publish_header(name, nbytes, packet_id=packet_id)
        sent = outbox.send([header, *flat], limit=limit, timeout=timeout)
        if packet_id and not sent:
            with self._numbers:
                self._unacknowledged.discard(packet_id)
        return sent

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> bool:
        """Hand a message to the connection, however much waits for the socket; False when it is closed."""
        if retain:
            raise ValueError("frames are never retained")
        return self.send(topic, [payload], limit=MAX_PAYLOAD, timeout=0, qos=qos)

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> int | None:
        """Ask for (filter, QoS) pairs; the packet's number, which the SUBACK will carry, or None when closed."""
        with self._numbers:
            number = self._next_number()
        return number if self._control(mqtt_encode.encode_subscribe(number, filters)) else None

    def unsubscribe(self, filters: Sequence[str]) -> int | None:
        """End subscriptions; the packet's number, which the UNSUBACK will carry, or None when closed."""
        with self._numbers:
            number = self._next_number()
        return number if self._control(mqtt_encode.encode_unsubscribe(number, filters)) else None

    def _next_number(self) -> int:
        while True:
            self._number = self._number % 65_535 + 1
            if self._number not in self._unacknowledged:
                return self._number

    def _control(self, packet: bytes) -> bool:
        outbox = self._outbox
        return not self._ended and outbox is not None and outbox.send([packet], limit=None, timeout=0)

    def disconnect(self, deadline: float) -> None:
        """Say goodbye and close, by the monotonic time `deadline`; frames that still wait go first."""
        if self._control(mqtt_encode.DISCONNECT) and self._outbox is not None and self._stream is not None:
            while self._outbox.unsent and time.monotonic() < deadline:
                if not self.pump(deadline - time.monotonic()):
                    return
            # Closing with bytes unread would make the system throw away what is still on its way out.
            self._stream.finish()
            while time.monotonic() < deadline and self.pump(deadline - time.monotonic()):
                pass
        self.close()

    def close(self) -> None:
        """Close without a goodbye."""
        self._ended = True
        if self._outbox is not None:
            self._outbox.close("closed")

    def _end(self, detail: str) -> None:
        self._detail = "" if detail == "the broker closed it" else detail
        self.reason = f"connection to {self._options.describe()} lost: {detail}"
        self.close()

    def _guarded(self, function: Callable[..., None], *values: Any) -> None:
        try:
            function(*values)
        except Exception:
            logger.exception("an error in a callback of connection %s was ignored", self._client_id)


def _flat(part: bytes | memoryview) -> bytes | memoryview:
    """The bytes of a contiguous view of any type and shape."""
    view = memoryview(part)
    if view.ndim == 1 and view.format == "B" and view.contiguous:
        return view
    return view.cast("B") if view.nbytes and view.c_contiguous else view.tobytes()
