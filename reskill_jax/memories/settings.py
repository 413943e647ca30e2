"""The constants of each method, with their published values and why ours differ."""

from dataclasses import dataclass
from typing import Any


def _check(settings: Any, **ranges: tuple[float, float]) -> None:
    """Refuse values out of range.

    Raises:
        ValueError: begins with the argument's name.
    """
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if not least <= value <= most:
            raise ValueError(
                f"{name}={value!r}: must be {least:g} or more, {most:g} or less"
            )


def _choose(settings: Any, name: str, *choices: str) -> None:
    value = getattr(settings, name)
    if value not in choices:
        raise ValueError(
            f"{name}={value!r}: choose one of {', '.join(map(repr, choices))}"
        )


_MANY = 1_000_000


@dataclass(frozen=True)
class ShelfSettings:
    """What a fixed bank, or a long context, shows (no published settings).

    Attributes:
        count: skills that BM25 or chance chooses per task.
        episodes: successful episodes that a long context holds, at most.
        characters: length of a long context.
    """

    count: int = 8
    episodes: int = 20
    characters: int = 6000

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(self, count=(1, _MANY), episodes=(0, _MANY), characters=(1, 10**7))


@dataclass(frozen=True)
class ReflexionSettings:
    """Reflexion (2303.11366).

    Attributes:
        attempts: at each task (its curves go on to 15).
        shown: newest reflections in a prompt.
    """

    attempts: int = 4
    shown: int = 3

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(self, attempts=(1, 1000), shown=(0, 1000))


@dataclass(frozen=True)
class ExpelSettings:
    """ExpeL (2308.10144).

    Attributes:
        gather_steps: steps that gather; each plays at most as many episodes as GRPO's.
        attempts: at each task while gathering.
        shown: newest reflections in a prompt while gathering.
        max_rules: soft limit of the list.
        chunk: successful episodes per call.
        trajectories: successful episodes shown beside the rules.
        trajectory_characters: longer ones are not shown.
        show: both, or rules or trajectories alone (ablations).
    """

    gather_steps: int = 8
    attempts: int = 4
    shown: int = 3
    max_rules: int = 10
    chunk: int = 8
    trajectories: int = 2
    trajectory_characters: int = 3000
    show: str = "both"

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(
            self,
            gather_steps=(1, _MANY),
            attempts=(1, 1000),
            shown=(0, 1000),
            max_rules=(1, 1000),
            chunk=(1, 1000),
            trajectories=(0, 100),
            trajectory_characters=(1, 10**7),
        )
        _choose(self, "show", "both", "rules", "trajectories")


@dataclass(frozen=True)
class MemrlSettings:
    """MemRL (2601.03192), constants of its released code for household tasks.

    Attributes:
        threshold: least cosine of a key.
        keys: nearest keys whose memories are candidates.
        shown: memories in a prompt.
        q_min: candidates of less utility are left out.
        sim_mean: what similarities are standardised with: the mean
        sim_sd: and the standard deviation that were measured with its embedder.
        z_clip: bound of the standardised utility.
        weight: of the utility in the score; the rest is the similarity's.
        rate: by which utility moves towards the return of a group.
        attach: least cosine to a key for a new memory to be put under it.
        capacity: memories; beyond it those of the least utility go (ours: no limit
            there).
        keyed_by: goal, or goal_and_room: with the first observation, as published.
        show: script, or trajectory: with the whole episode, as published.
    """

    threshold: float = 0.5
    keys: int = 5
    shown: int = 3
    q_min: float = -10.0
    sim_mean: float = 0.5187
    sim_sd: float = 0.1203
    z_clip: float = 3.0
    weight: float = 0.5
    rate: float = 0.3
    attach: float = 0.9
    capacity: int = 2000
    keyed_by: str = "goal"
    show: str = "script"

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(
            self,
            threshold=(0, 1),
            keys=(1, _MANY),
            shown=(1, 1000),
            q_min=(-1e6, 1e6),
            sim_mean=(0, 1),
            sim_sd=(1e-6, 1e6),
            z_clip=(0, 1e6),
            weight=(0, 1),
            rate=(0, 1),
            attach=(0, 1),
            capacity=(1, _MANY),
        )
        _choose(self, "keyed_by", "goal", "goal_and_room")
        _choose(self, "show", "script", "trajectory")


@dataclass(frozen=True)
class EvolverSettings:
    """EvolveR (2510.16079).

    Attributes:
        shown: principles in an answer.
        characters: length of an answer.
        share: of a group's episodes that are summarised, half of them successes.
        merge: least cosine of principles that may be the same.
        matches: nearest principles that are compared with a new one.
        organise_every: steps between summaries, which are of the episodes of them all.
        prune_every: steps between prunings; 0: never (the released default).
        prune_below: score below which a principle is dropped then.
        capacity: principles; beyond it the lowest scores go (ours).
        credit: success: an episode's own; or relative: better than its group's mean
            (ours: an absolute score punishes what is used in hard tasks).
        ask: agent: the policy asks, by an action; or goal: the goal is asked for at the
            start of each episode as well (ours, for policies that never ask).
    """

    shown: int = 3
    characters: int = 2048
    share: float = 0.25
    merge: float = 0.85
    matches: int = 3
    organise_every: int = 1
    prune_every: int = 10
    prune_below: float = 0.3
    capacity: int = 2000
    credit: str = "success"
    ask: str = "agent"

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(
            self,
            shown=(1, 1000),
            characters=(100, 10**7),
            share=(0, 1),
            merge=(0, 1),
            matches=(0, 1000),
            organise_every=(1, _MANY),
            prune_every=(0, _MANY),
            prune_below=(0, 1),
            capacity=(1, _MANY),
        )
        _choose(self, "credit", "success", "relative")
        _choose(self, "ask", "agent", "goal")


@dataclass(frozen=True)
class InspoSettings:
    """INSPO (2512.01945), whose constants are not published: ours.

    Attributes:
        population: instructions, at most.
        temperature: of the softmax over weights that draws one per group.
        rate: by which a weight moves towards a group's advantage.
        every: steps between generations.
        least_groups: that an instruction must have played to be dropped.
        trusted_groups: that it must have played to be what evaluation uses.
        candidates: asked for per generation.
        failures: episodes shown to the writer.
        checks: training tasks that verify a candidate, one rollout each.
        compare: groups: one instruction per group (published); or same_tasks: every
            group is divided among them (as in E-SPL, 2602.14697).
    """

    population: int = 4
    temperature: float = 0.1
    rate: float = 0.1
    every: int = 10
    least_groups: int = 8
    trusted_groups: int = 16
    candidates: int = 3
    failures: int = 8
    checks: int = 16
    compare: str = "groups"

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(
            self,
            population=(1, 1000),
            temperature=(1e-3, 1e3),
            rate=(0, 1),
            every=(1, _MANY),
            least_groups=(1, _MANY),
            trusted_groups=(1, _MANY),
            candidates=(1, 8),
            failures=(1, 1000),
            checks=(1, _MANY),
        )
        _choose(self, "compare", "groups", "same_tasks")


@dataclass(frozen=True)
class SkillrlSettings:
    """SkillRL (2602.08234).

    Attributes:
        library: skills.json or a directory to start from; empty: none.
        gather_steps: steps whose episodes the first library is distilled from; 0: none
            is. (Published: episodes of the base model, before training.)
        per_kind: successes, and failures, of a type of task that are distilled then.
        shown: K, skills of the task's type in a prompt, at most.
        threshold: least similarity of those, exclusive; none is published, and what
            fits depends on the embedder. -1: all are similar enough.
        mistakes: of the library that are shown, the first ones.
        retrieve: by the task; or the state: with the first observation.
        duplicate: a similarity from which a new skill is refused.
        every: steps between evolutions; as many as between evaluations there.
        weak: success rate below which a type of task is worked on (delta).
        least: episodes of a type without which its rate says nothing (ours).
        failures: episodes that are analysed; half of them where `weak` is exceeded
            overall.
        operations: edits that an evolution may make.
        refine: whether a skill may be replaced by a better one.
        capacity: skills of each category (ours: no limit there).
        evolve_from: train; or dev: a split that is neither trained nor reported on; or
            paper: the reported split, as published, which leaks.
        reported_split: which that is.
        panel_tasks: tasks of those splits that are played per evolution.
    """

    library: str = ""
    gather_steps: int = 1
    per_kind: int = 8
    shown: int = 6
    threshold: float = -1.0
    mistakes: int = 5
    retrieve: str = "task"
    duplicate: float = 0.8
    every: int = 5
    weak: float = 0.4
    least: int = 8
    failures: int = 10
    operations: int = 3
    refine: bool = True
    capacity: int = 20
    evolve_from: str = "train"
    reported_split: str = "valid_seen"
    panel_tasks: int = 64

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(
            self,
            gather_steps=(0, _MANY),
            per_kind=(1, 1000),
            shown=(0, 1000),
            threshold=(-1, 1),
            mistakes=(0, 1000),
            duplicate=(0, 1),
            every=(1, _MANY),
            weak=(0, 1),
            least=(1, _MANY),
            failures=(1, 1000),
            operations=(1, 16),
            capacity=(1, 10_000),
            panel_tasks=(1, _MANY),
        )
        _choose(self, "retrieve", "task", "state")
        _choose(self, "evolve_from", "train", "dev", "paper")
        if not self.reported_split:
            raise ValueError("reported_split='': must be the name of a split")


# By the section of `strategy` that holds them.
METHODS: dict[str, type[Any]] = {
    "shelf": ShelfSettings,
    "reflexion": ReflexionSettings,
    "expel": ExpelSettings,
    "memrl": MemrlSettings,
    "evolver": EvolverSettings,
    "inspo": InspoSettings,
    "skillrl": SkillrlSettings,
}
