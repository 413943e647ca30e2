"""One file per method: what is played, on which contexts, what is learnt.

A module of a strategy has ``make(setup, **switches) -> Strategy``; an ablation is a row
of switches. A name that is not listed is the dotted name of such a module.
"""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from reskill_jax.strategies.base import Setup, Strategy

_RESKILL = "reskill_jax.strategies.reskill"
# Name -> module and switches.
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("reskill_jax.strategies.static", {"use_bank": False}),
    "static": ("reskill_jax.strategies.static", {}),
    "reskill": (_RESKILL, {}),
    "auto_accept": (_RESKILL, {"auto_accept": True}),
    "uniform": (_RESKILL, {"trial": {"uniform": True}}),
    "no_discount": (_RESKILL, {"trial": {"discount": "none"}}),
    "no_analyzer": (_RESKILL, {"analyse": False}),
    "skill_first": (_RESKILL, {"stages": "skill_first"}),
    "policy_first": (_RESKILL, {"stages": "policy_first"}),
}


def find_strategy(name: str) -> Callable[[Setup], Strategy]:
    """Return what makes a strategy.

    Raises:
        ValueError: there is no such strategy or module, or it has no `make`.
    """
    path, switches = STRATEGIES.get(name, (name, {}))
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise  # the module is there, and something that it needs is not
        raise ValueError(
            f"name={name!r}: no such strategy; choose one of {list(STRATEGIES)}, or "
            "give the dotted name of a module that can be imported"
        ) from error
    if not hasattr(module, "make"):
        raise ValueError(f"name={name!r}: the module {path} has no make(setup)")
    return partial(module.make, **switches)


def trial_switches(name: str) -> Mapping[str, Any] | None:
    """Return what an ablation changes in trials; None for one that holds none."""
    path, switches = STRATEGIES.get(name, ("", {}))
    if path != _RESKILL or "auto_accept" in switches:
        return None
    return switches.get("trial", {})
