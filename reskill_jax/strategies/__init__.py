"""One file per method: what is played, on which contexts, what is learnt.

A module of a strategy has ``make(setup, **switches) -> Strategy``; an ablation is a row
of switches. A name that is not listed is the dotted name of such a module.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from reskill_jax.modules import find_module
from reskill_jax.strategies.base import Setup, Strategy

_HERE = "reskill_jax.strategies"
_RESKILL = f"{_HERE}.reskill"
_STATIC = f"{_HERE}.static"
# Name -> module and switches.
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": (_STATIC, {"show": "none"}),
    "static": (_STATIC, {}),
    "reskill": (_RESKILL, {}),
    # Ablations.
    "auto_accept": (_RESKILL, {"auto_accept": True}),
    "uniform": (_RESKILL, {"trial": {"uniform": True}}),
    "no_discount": (_RESKILL, {"trial": {"discount": "none"}}),
    "last_step": (_RESKILL, {"trial": {"discount": "last_step"}}),
    "no_analyzer": (_RESKILL, {"analyse": False}),
    "skill_first": (_RESKILL, {"stages": "skill_first"}),
    "policy_first": (_RESKILL, {"stages": "policy_first"}),
    # The policy is frozen.
    "react": (_STATIC, {"show": "none", "train": False}),
    "static_all": (_STATIC, {"train": False}),
    "static_bm25": (_STATIC, {"show": "bm25", "train": False}),
    "static_random": (_STATIC, {"show": "random", "train": False}),
    "long_context": (f"{_HERE}.long_context", {}),
    "reflexion": (f"{_HERE}.reflexion", {}),
    "expel": (f"{_HERE}.expel", {}),
    # Beside GRPO, and frozen.
    "memrl": (f"{_HERE}.memrl", {}),
    "memrl_frozen": (f"{_HERE}.memrl", {"train": False}),
    "evolver": (f"{_HERE}.evolver", {}),
    "evolver_frozen": (f"{_HERE}.evolver", {"train": False}),
    "skillrl": (f"{_HERE}.skillrl", {}),
    "skillrl_frozen": (f"{_HERE}.skillrl", {"train": False}),
    "inspo": (f"{_HERE}.inspo", {}),
    "inspo_frozen": (f"{_HERE}.inspo", {"train": False}),
}
_LEARNING = ("memrl", "evolver", "inspo", "skillrl")
_OWN_MEMORY = (
    "reflexion",
    "expel",
    *_LEARNING,
    *(f"{name}_frozen" for name in _LEARNING),
)
# Those that show no bank, and those that need one.
WITHOUT_BANK = ("grpo", "react", *_OWN_MEMORY)
NEED_BANK = ("static", "static_all", "static_bm25", "static_random")
# Those beside ReSkill's that have something written, see `Setup.make_desk`.
WRITING = _OWN_MEMORY


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
    """Tell whether a strategy needs what the section `creator` names."""
    return name in WRITING or STRATEGIES.get(name, (_RESKILL, {}))[0] == _RESKILL
