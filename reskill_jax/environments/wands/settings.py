"""The keys of a configuration's section `env` that only WANDS has."""

from dataclasses import dataclass

from reskill_jax.environments.tfds import parse_source

_BOTH = (2, 3)


@dataclass(frozen=True)
class Settings:
    """Where the products come from, and how much is shown.

    Attributes:
        source: ``tfds:<name>/<version>``, tasks that `write_task_set` wrote; empty: as
            follows.
        root: directory that holds ``product.csv``, ``query.csv`` and ``label.csv``.
            Empty: the directory in the variable WANDS_DATA.
        synthetic: play invented products and queries of the same form instead, which
            make a run possible anywhere; no figure of theirs is one of WANDS.
        candidates: how many products a task offers, 2 or 3; 0: tasks of both kinds.
        observation_characters: longest text of a product that is shown; more is cut.

    Raises:
        ValueError: a value is out of range.
    """

    source: str = ""
    root: str = ""
    synthetic: bool = False
    candidates: int = 0
    observation_characters: int = 1200

    def __post_init__(self) -> None:
        """Check the values."""
        if self.source:
            parse_source(self.source)
        if self.synthetic and (self.root or self.source):
            raise ValueError(
                f"synthetic=True with root={self.root!r} and source={self.source!r}: "
                "set one of them, synthetic products need no files"
            )
        if self.candidates not in (0, *_BOTH):
            raise ValueError(
                f"candidates={self.candidates}: choose 2, 3, or 0 for both"
            )
        if self.observation_characters < 100:
            raise ValueError(
                f"observation_characters={self.observation_characters}: must be 100 or "
                "more, or hardly a feature can be seen"
            )

    @property
    def kinds(self) -> tuple[int, ...]:
        """Numbers of products that tasks offer."""
        return (self.candidates,) if self.candidates else _BOTH
