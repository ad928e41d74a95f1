"""What the verbs have measured and keep in the user's cache folder: profiles of models, speeds of this machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from converters.profile import SECONDS

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.profile import Profile
    from converters.schema import Bytes


def cache() -> Path:
    """The folder `slicemq` below $XDG_CACHE_HOME (else ~/.cache), made when it is not there.

    Where it cannot be made, who keeps something there says so, and it only costs the time of measuring again.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(home) / "slicemq"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def measured(
    data: Bytes, graph: Graph, runtime: str = "auto", *, fresh: bool = False, seconds: float = SECONDS
) -> Profile:
    """The model's profile on this machine, measured once and then taken from the cache.

    fresh: measure anew. seconds: how long to measure. Raises RuntimeUnavailableError, ModelError.
    """
    from coordinator.cli.model_files import loader
    from coordinator.profiles import profile_of
    from edge_node.runtime import load_runtime

    load = loader(runtime)
    info = load_runtime(runtime)
    name = f"{info.name} {info.version}"
    return profile_of(data, graph, load, name, cache() / "profiles", fresh=fresh, budget=seconds)
