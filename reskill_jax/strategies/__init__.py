"""One file per method: what is played, on which contexts, what is learnt.

A module of a strategy has ``make(setup, **switches) -> Strategy``; an ablation is a row
of switches. A name that is not listed is the dotted name of such a module.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from reskill_jax.modules import find_module
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
    paths = {name: path for name, (path, _) in STRATEGIES.items()}
    module = find_module(name, paths, kind="strategy", needs=("make",))
    _, switches = STRATEGIES.get(name, ("", {}))
    return partial(module.make, **switches)


def holds_trials(name: str) -> bool:
    """Tell whether a strategy splits groups between banks."""
    path, switches = STRATEGIES.get(name, ("", {}))
    return path == _RESKILL and "auto_accept" not in switches


def asks_creator(name: str) -> bool:
    """Tell whether a strategy makes the creator that the configuration names."""
    return STRATEGIES.get(name, (_RESKILL, {}))[0] == _RESKILL
