"""The options of `slicemq deploy` for another verb that deploys: the same words, help and checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import get_type_hints

from coordinator.cli import deploy

# Each deployment has its own, or its verb has.
_OWN = ("net", "out", "file", "name", "plan", "wait", "timeout")


def with_deploy_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb's function, which takes `**given`, the options of deploy: their values by parameter."""
    original = inspect.unwrap(deploy.command)
    hints, own_hints = get_type_hints(original), get_type_hints(function)
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        parameter.replace(kind=keyword, annotation=hints[name])
        for name, parameter in inspect.signature(original).parameters.items()
        if name not in _OWN
    ]
    own = [
        parameter.replace(kind=keyword, annotation=own_hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    function.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)}
    return function
