"""Ways to play that experiments compare on the same held-out tasks.

An `Experiment` says which kinds of tasks the warm start is trained on first, by plain
GRPO where an arm does not say otherwise, which kinds come then, and which arms meet
them. An arm may be

- that policy alone, or with a bank that it is given;
- that policy, which learns no more, with what a strategy has found out on the kinds
  that come then (``--mode=adapt``);
- a policy that a strategy has trained further on them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from reskill_jax.benchmarks.runs import Changes
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.laboratory.known_proposals import KNOWN
from reskill_jax.skills.rule import Rule
from reskill_jax.skills.skill import SkillBank

ALONE = "no skills"
_SLOWLY: Changes = {"grpo.learning_rate": 3e-5}
_HARMFUL: Changes = {"creator.inject": "harmful", "creator.inject_every": 2}


@dataclass(frozen=True)
class Arm:
    """A way to play.

    Attributes:
        changes: keys of the run that finds out what to show; none: there is no run.
        mode: of that run.
        bank: what is shown where there is no run, or what the run begins with.
        trainer: strategy that has trained the policy on the first kinds of tasks. What
            it has accepted is not taken along.
    """

    changes: Changes = field(default_factory=dict)
    mode: str = "adapt"
    bank: SkillBank | None = None
    trainer: str = "grpo"


def _bank(rules: Sequence[Rule]) -> SkillBank:
    return SkillBank(tuple(rule.skill() for rule in rules))


_BEST_RULE = _bank(KNOWN["helpful"][0])
_REMARK = _bank(KNOWN["neutral"][0])  # a text that says nothing
ARMS = {
    ALONE: Arm(),
    "best rule": Arm(bank=_BEST_RULE),
    # What is it worth that there is a text at all?
    "remark": Arm(bank=_REMARK),
    # All that the creator can propose, untested.
    "static": Arm(bank=_bank(HELPFUL)),
    "reskill": Arm({"strategy.name": "reskill"}),
    "auto_accept": Arm({"strategy.name": "auto_accept"}),
    # The same by a policy that was trained beside skills.
    f"{ALONE} after reskill": Arm(trainer="reskill"),
    "reskill after reskill": Arm({"strategy.name": "reskill"}, trainer="reskill"),
    # Half of the proposals are known to harm.
    "reskill+harmful": Arm({"strategy.name": "reskill", **_HARMFUL}),
    "uniform+harmful": Arm(
        {"strategy.name": "uniform", "trial.preset": "paper", **_HARMFUL}
    ),
    "auto_accept+harmful": Arm({"strategy.name": "auto_accept", **_HARMFUL}),
    "expel": Arm({"strategy.name": "expel"}),
    "skillrl": Arm({"strategy.name": "skillrl"}),
    **{
        f"{name} trained": Arm({"strategy.name": name}, "train")
        for name in (
            *("grpo", "reskill", "auto_accept", "skillrl", "memrl", "evolver", "inspo"),
            *("no_discount", "last_step", "no_analyzer", "skill_first", "policy_first"),
        )
    },
    # A skill that is there from the first step to the last: one that helps, and one
    # that says nothing.
    "best rule trained": Arm({"strategy.name": "static"}, "train", _BEST_RULE),
    "remark trained": Arm({"strategy.name": "static"}, "train", _REMARK),
    # Proposals are asked for after the first step instead of the fourth.
    "reskill trained early": Arm(
        {"strategy.name": "reskill", "strategy.reservoir_min": 6}, "train"
    ),
    # What arms of a trial are known to add is taken off before episodes are compared.
    "reskill trained adjusted": Arm(
        {"strategy.name": "reskill", "grpo.estimator": "arm_adjusted"}, "train"
    ),
    # The policy is held near the warm start, which was taught to obey.
    **{
        f"{name} trained near": Arm(
            {"strategy.name": name, "grpo.kl_coef": 0.05}, "train"
        )
        for name in ("grpo", "reskill")
    },
    # At a tenth of the learning rate GRPO takes tens of steps, as it does for large
    # policies, and not the four that this small one needs.
    **{
        f"{name} trained slowly": Arm({"strategy.name": name, **_SLOWLY}, "train")
        for name in ("grpo", "reskill")
    },
    **{
        f"{name} trained slowly": Arm(
            {"strategy.name": "static", **_SLOWLY}, "train", bank
        )
        for name, bank in (("best rule", _BEST_RULE), ("remark", _REMARK))
    },
    "paper trained": Arm(
        {"strategy.name": "reskill", "trial.preset": "paper"}, "train"
    ),
    "uniform trained": Arm(
        {"strategy.name": "uniform", "trial.preset": "paper"}, "train"
    ),
    "static trained": Arm({"strategy.name": "static"}, "train", _bank(HELPFUL)),
    "reskill+harmful trained": Arm({"strategy.name": "reskill", **_HARMFUL}, "train"),
    "auto_accept+harmful trained": Arm(
        {"strategy.name": "auto_accept", **_HARMFUL}, "train"
    ),
}


@dataclass(frozen=True)
class Claim:
    """What an experiment promises of one arm over another.

    Attributes:
        one: the arm that gains.
        other: what it gains over.
        least: the gain that is promised of the mean, as a share of episodes; 0: that
            there is one, which the interval must show.
        what: ``successes`` on held-out tasks, or the area under the ``course``.
    """

    one: str
    other: str
    least: float
    what: str = "successes"

    def __str__(self) -> str:
        """Name it in figures."""
        area = "area under the curve, " if self.what == "course" else ""
        return f"{area}{self.one} over {self.other}"


# What is played without gradients, and what is promised of it.
ADAPTING = (
    *("best rule", "remark", "static", "reskill", "auto_accept", "expel", "skillrl"),
    *("reskill+harmful", "uniform+harmful", "auto_accept+harmful"),
)
ADAPTING_CLAIMS = (
    *(
        Claim("reskill", other, 0.0)
        for other in ("static", "auto_accept", "expel", "skillrl", "remark")
    ),
    *(
        Claim(one, other, 0.0, what)
        for one, other in itertools.pairwise(
            ("reskill+harmful", "uniform+harmful", "auto_accept+harmful")
        )
        for what in ("successes", "course")
    ),
)


@dataclass(frozen=True)
class Experiment:
    """Arms that meet the same tasks.

    Attributes:
        name: of the command, of its runs and of the file of its results.
        trained: kinds of tasks that are trained on first; empty: none are.
        met: kinds of tasks that come then; empty: all.
        arms: keys of `ARMS`; the others are compared with the first one.
        claims: what is promised.
        changes: keys in which all its runs differ from `config`.
        splits: what held-out tasks may be of, the usual one first; choices are made on
            `dev`.
        seeds: of its runs; choices are made on others than those that are reported.
        shares: the experiment, alike but in its arms, whose runs and results it goes
            on with; empty: it has its own.
        config: file and variants of the configuration that its runs differ from.
        houses: whether tasks are in houses that are built; otherwise they are those
            that there are.
    """

    name: str
    trained: str
    met: str
    arms: tuple[str, ...]
    claims: tuple[Claim, ...] = ()
    changes: Changes = field(default_factory=dict)
    splits: tuple[str, ...] = ("valid_unseen", "valid_seen", "dev")
    seeds: tuple[int, ...] = tuple(range(8))
    shares: str = ""
    config: str = "configs/alfworld.py:cpu"
    houses: bool = True

    @property
    def setting(self) -> str:
        """What its runs and results are named after."""
        return self.shares or self.name
