"""The keys of a configuration's section `env` that only InterCode-SQL has."""

from dataclasses import dataclass

from reskill_jax.environments.tfds import parse_source


@dataclass(frozen=True)
class Settings:
    """Where the questions come from, and how much is shown.

    Attributes:
        source: ``tfds:<name>/<version>``, questions with their databases that
            `write_task_set` wrote; empty: as follows.
        root: directory that holds ``ic_spider_dev.json`` and ``ic_spider_dbs.sql``.
            Empty: the directory in the variable INTERCODE_SQL_DATA.
        sample: play the few questions that ship with the package instead; they are
            not InterCode's, but make a run possible anywhere.
        show_schema: whether the first observation lists tables and columns
            (InterCode's "handicap"); otherwise the agent has to ask for them.
        observation_characters: longest result that is shown; more is cut.

    Raises:
        ValueError: a value is out of range.
    """

    source: str = ""
    root: str = ""
    sample: bool = False
    show_schema: bool = False
    observation_characters: int = 1200

    def __post_init__(self) -> None:
        """Check the values."""
        if self.source:
            parse_source(self.source)
        if self.observation_characters < 200:
            raise ValueError(
                f"observation_characters={self.observation_characters}: must be 200 or "
                "more, or hardly a row can be seen"
            )
        if self.sample and self.root:
            raise ValueError(
                f"sample=True with root={self.root!r}: set one of them, the sample "
                "ships with the package"
            )
