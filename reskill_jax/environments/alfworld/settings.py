"""The keys of a configuration's section `env` that only ALFWorld has."""

from dataclasses import dataclass

from reskill_jax.environments.alfworld.environment import COLUMNS, KINDS
from reskill_jax.environments.alfworld.house_settings import PRESETS
from reskill_jax.environments.tfds import parse_source

_MOST = 1_000_000  # houses of a split


@dataclass(frozen=True)
class Settings:
    """Where the games come from.

    Attributes:
        source: ``tfds:<name>/<version>``, a task set that `write_task_set` wrote;
            empty: files, as follows.
        root: directory that holds ``json_2.1.1/``. Empty: the houses built as below
            or, without those, the directory in the variable ALFWORLD_DATA.
        houses: size of houses to build when `root` is empty, a key of
            `house_settings.PRESETS`: small, medium or full (as large as the published
            ones). Empty: build none.
        houses_train: number of houses to build for the split train.
        houses_eval: number to build for each of valid_seen and valid_unseen.
        houses_seed: seed of everything random in the houses, apart from the run's own,
            so that runs with different seeds play the same houses.
        dev: number of games of train that are not trained on but are the split dev,
            for choices; the other splits are for what is reported. A task set that has
            a split dev keeps it, whatever this number is.
        kinds: which kinds of tasks train has, so that one can see what a policy does
            with those that it never trained on: names with commas, of kinds or of the
            paper's columns (see `chosen_kinds`); empty: all.
        eval_kinds: likewise of dev, valid_seen and valid_unseen.

    Raises:
        ValueError: a value is out of range, or houses are asked for without numbers.
    """

    source: str = ""
    root: str = ""
    houses: str = ""
    houses_train: int = 0
    houses_eval: int = 0
    houses_seed: int = 0
    dev: int = 0
    kinds: str = ""
    eval_kinds: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.source:
            parse_source(self.source)
        sizes = ("", *PRESETS)
        if self.houses not in sizes:
            raise ValueError(
                f"houses={self.houses!r}: choose one of {', '.join(map(repr, sizes))}"
            )
        for name in ("houses_train", "houses_eval", "houses_seed", "dev"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be 0 or more")
        for name in ("houses_train", "houses_eval"):
            if getattr(self, name) > _MOST:
                raise ValueError(
                    f"{name}={getattr(self, name)}: must be {_MOST} or less"
                )
        counts = self.houses_train, self.houses_eval
        if self.houses and not self.root and not all(counts):
            raise ValueError(
                f"houses={self.houses!r} with houses_train={counts[0]} and "
                f"houses_eval={counts[1]}: set both numbers to 1 or more"
            )
        for name in ("kinds", "eval_kinds"):
            try:
                chosen_kinds(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}={getattr(self, name)!r}: {error}") from error

    def kinds_of(self, split: str) -> frozenset[str]:
        """Return the kinds of tasks that a split has."""
        return chosen_kinds(self.kinds if split == "train" else self.eval_kinds)


def chosen_kinds(names: str) -> frozenset[str]:
    """Return the kinds of tasks that are named; all where nothing is.

    Args:
        names: with commas; of kinds, or of columns, which stand for theirs:
            ``transform`` is clean, heat and cool.

    Raises:
        ValueError: there is no such kind or column.
    """
    groups = {kind: (kind,) for kind in KINDS} | dict(COLUMNS)
    chosen: set[str] = set()
    for name in names.split(",") if names else KINDS:
        if name not in groups:
            raise ValueError(f"{name!r} is none of {', '.join(groups)}")
        chosen.update(groups[name])
    return frozenset(chosen)
