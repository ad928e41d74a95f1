"""The end of an ingress: its session is deleted in the broker, its document says so (protocol rules 15 and 25)."""

from __future__ import annotations

import secrets
from dataclasses import replace

from ingress.config import Retirement
from ingress.service import session_id
from slicemq.errors import ProtocolError, UsageError
from slicemq.messages import decode, encode
from slicemq.operations import IngressState
from slicemq.persistent import forget_session
from slicemq.session import Session
from slicemq.topics import Topics


def retire(which: Retirement, *, force: bool) -> bool:
    """Delete the session and the document of an ingress; whether there was a session.

    Raises UsageError while the ingress runs (unless `force`), BrokerError without a broker.
    """
    topic = Topics(which.cluster).ingress(which.id)
    session = Session(which.options, f"retire-{secrets.token_hex(4)}")
    session.start()
    try:
        payload = session.snapshot(topic, timeout=10.0).get(topic)
        try:
            known = decode(IngressState, payload, topic) if payload else None
        except ProtocolError:
            known = None
        if known is not None and known.state in ("starting", "running", "holding") and not force:
            raise UsageError(
                f"ingress {which.id!r} is {known.state}: stop it first (--force if it is not there any more)"
            )
        there = forget_session(which.options, session_id(which.cluster, which.id))
        if known is not None:
            session.publish(topic, encode(replace(known, state="retired", reason="")), retain=True)
        if payload is not None:
            session.publish(topic, b"", retain=True)
        return there
    finally:
        session.stop()
