"""What a standby does ahead, so that the first plan after it took over need not wait for measurements."""

from __future__ import annotations

import logging
from pathlib import Path

from coordinator.intents import Intent
from coordinator.planning import Tools, model_measures, model_profile, plan_options, reference_speeds, shapes_of
from coordinator.store import Store
from slicemq.errors import SliceMQError, StoreError

logger = logging.getLogger("slicemq.coordinator.standby")


def intents_of(folder: Path) -> tuple[Intent, ...]:
    """What the store in `folder` says shall run; nothing where it cannot be read."""
    try:
        records = Store(folder).load(0.0).records
    except StoreError:
        return ()
    return tuple(record.intent for record in records if record.intent is not None and record.removed_at is None)


def rehearse(tools: Tools, folder: Path, intents: tuple[Intent, ...]) -> None:
    """Measure this machine and the intents' models, as planning does, and keep the figures in `folder`.

    In a child process: models are a stranger's, and measuring holds a core for seconds. What fails is left to the
    plan that needs it.
    """
    kept = str(folder / "profiles")
    try:
        reference_speeds(tools, folder)
    except SliceMQError as error:
        logger.info("this machine was not measured ahead: %s", error)
    for intent in intents:
        path = str(folder / "artifacts" / intent.model.sha256)
        try:
            shapes, options = shapes_of(intent), plan_options(intent.options)
            model_profile(path, str(intent.options.get("profile", "measure")), kept, tools, shapes)
            if options.codecs != ("raw",) and intent.calibration is None:
                model_measures(path, options.codecs, kept, tools, shapes)
        except (SliceMQError, OSError) as error:
            logger.info("pipeline %s was not measured ahead: %s", intent.name, error)
