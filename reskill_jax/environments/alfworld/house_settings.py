"""Sizes and numbers of the games to build, checked before any work is done."""

from dataclasses import dataclass

from reskill_jax.environments.alfworld.environment import KINDS, SPLITS


@dataclass(frozen=True)
class HouseSettings:
    """Which games to build.

    Attributes:
        train, valid_seen, valid_unseen: number of games of each split.
        seed: of all random choices.
        tasks: task types; games alternate between them.
        receptacles: smallest and largest number of receptacles; a floor plan with
            fewer keeps all it has.
        objects: smallest and largest number of small objects.
        same_kind: how many receptacles of one kind a house may have.
        shared_locations: whether two receptacles may be used from one place, as in
            many published games (there `go to` is inadmissible between the two).

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    train: int = 600
    valid_seen: int = 60
    valid_unseen: int = 60
    seed: int = 0
    tasks: tuple[str, ...] = KINDS
    receptacles: tuple[int, int] = (7, 9)
    objects: tuple[int, int] = (7, 12)
    same_kind: int = 3
    shared_locations: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        for split in SPLITS:
            if getattr(self, split) < 0:
                raise ValueError(f"{split}={getattr(self, split)} must not be negative")
        unknown = [task for task in self.tasks if task not in KINDS]
        if unknown or not self.tasks:
            raise ValueError(f"tasks={self.tasks} must be some of {KINDS}")
        # Fixtures, goal, a place for the target and one for the lamp; two targets to
        # move and a spare, and a lamp.
        for name, least in (("receptacles", 6), ("objects", 4)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise ValueError(
                    f"{name}=({low}, {high}) must be (low, high) with low >= {least}"
                )
        if self.same_kind < 1:
            raise ValueError(f"same_kind={self.same_kind} must be at least 1")


PRESETS = {
    # Short prompts and a fast engine: for tests and for training on a laptop.
    "small": HouseSettings(),
    "medium": HouseSettings(receptacles=(14, 18), objects=(16, 26), same_kind=6),
    # The size of the published games.
    "full": HouseSettings(
        receptacles=(60, 60), objects=(20, 50), same_kind=60, shared_locations=True
    ),
}
