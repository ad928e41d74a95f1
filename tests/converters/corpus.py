"""Tiny sound models that together have every feature, for those who damage models."""

from __future__ import annotations

import random

from tests.converters.random_models import random_model
from tests.converters.tiny import chain, diamond, half_weights


def tiny_models() -> dict[str, bytes]:
    """The models by name."""
    models = {"chain": chain(), "diamond": diamond(), "half": half_weights()}
    for seed in range(6):
        models[f"plain{seed}"] = random_model(random.Random(f"plain{seed}"), 30)
        models[f"calls{seed}"] = random_model(random.Random(f"calls{seed}"), calls=True)
        models[f"state{seed}"] = random_model(random.Random(f"state{seed}"), calls=True, state=True)
    return models
