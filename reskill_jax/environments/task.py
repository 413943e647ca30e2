"""One problem of an environment."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One problem.

    Attributes:
        id: unique and stable, e.g. ``valid_seen/pick_heat...-22/trial_T2019``.
        kind: task type, e.g. ``pick_heat_then_place_in_recep``.
        split: e.g. ``train``, ``valid_seen`` or ``valid_unseen``.
        source: what the environment needs to load it, e.g. a game file's path.
        digest: content hash of what is played, where `source` only names a place; part
            of a panel's hash.
    """

    id: str
    kind: str
    split: str
    source: str
    digest: str = ""

    @property
    def place(self) -> str:
        """The source, as a message shows it: one that holds all content is cut."""
        return self.source if len(self.source) <= 200 else f"{self.source[:40]}.."
