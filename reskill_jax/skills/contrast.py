"""What a trial measured about one candidate, as plain data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contrast:
    """What a trial found out about one candidate.

    Attributes:
        effect: its success rate minus the incumbent's.
        standard_error: of the effect; None without any contrast.
        probability: that the effect exceeds the cost.
        exposed_effect: the effect among episodes where a changed skill could have
            fired; None when that was not recorded or never happened.
        exposed_standard_error: of it.
    """

    effect: float
    standard_error: float | None
    probability: float
    exposed_effect: float | None = None
    exposed_standard_error: float | None = None
