"""Which environments there are, and the settings that only one of them has.

An environment is a package here; its module `settings` has a frozen dataclass
`Settings` of plain values, with defaults, which checks itself.
"""

import importlib
import pkgutil
from typing import Any

from reskill_jax import environments

ENVIRONMENTS = tuple(
    sorted(m.name for m in pkgutil.iter_modules(environments.__path__) if m.ispkg)
)


def settings_of(environment: str) -> Any:
    """Return the class `Settings` of one of `ENVIRONMENTS`."""
    module = importlib.import_module(f"{environments.__name__}.{environment}.settings")
    return module.Settings
