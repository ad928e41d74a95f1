"""Times of the coordinator's decisions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Times in seconds of the coordinator's decisions."""

    prepare_most: float = 300.0
    probe_most: float = 60.0
    unready_grace: float = 5.0
    drain_quiet: float = 2.0
    drain_most: float = 30.0
    lost_shown: float = 60.0
    removed_shown: float = 30.0
    retry_after: float = 3.0
    retry_doublings: int = 6
    client_expires: float = 30.0
    resend_assignment: float = 1.0
    move_again: float = 30.0
    room_fetch: float = 60.0
    room_quiet: float = 1.0
    unload_most: float = 30.0
    figures_every: float = 2.0
