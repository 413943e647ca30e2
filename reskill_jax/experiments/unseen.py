r"""Are skills worth something where the policy has not learnt?

    python -m reskill_jax.experiments.unseen --workdir=runs/unseen

For every seed, plain GRPO trains the warm start on some kinds of tasks only (simple,
look, two objects). What then plays the other kinds (heat, cool, clean), in houses and
with goals that nothing was trained on, is

- that policy alone, and with the one rule that is known to help;
- that policy, which learns no more, with what a strategy has found out on the other
  kinds in 30 steps (``--mode=adapt``);
- a policy that GRPO, or ReSkill, has trained further on the other kinds for 30 steps.

With ``--experiment=adaptation`` the policy is the warm start, and there are all kinds.

Episodes are sampled as in training; success is compared with that of the policy alone,
paired by seed and task. Figures of finished runs are kept in --results, so that the
command may be interrupted and started again. Several commands with other --seeds may
run side by side.
"""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from reskill_jax import build
from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.runs import (
    Changes,
    Figures,
    Results,
    configuration,
    finish,
    identity,
)
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.codec import decode
from reskill_jax.creator.proposal import PastTrial
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.experiments.ceiling import load_params, play
from reskill_jax.laboratory.known_proposals import KNOWN
from reskill_jax.process import compilation_cache
from reskill_jax.report.metrics import read_metrics
from reskill_jax.report.statistics import Difference, paired_difference
from reskill_jax.rollout.context import (
    BankContext,
    Context,
    EmptyContext,
    open_context,
)
from reskill_jax.skills.operations import describe
from reskill_jax.skills.skill import SkillBank
from reskill_jax.strategies import find_strategy
from reskill_jax.workdir import Workdir

SPLITS = ("valid_unseen", "valid_seen")  # other floor plans, or those of training
_HARMFUL: Changes = {"creator.inject": "harmful", "creator.inject_every": 2}


@dataclass(frozen=True)
class Experiment:
    """What a policy has trained on, and what it meets then.

    Attributes:
        trained: kinds of tasks that GRPO trains on first; empty: it does not.
        met: kinds of tasks that come then.
        gain: points over the policy alone that ReSkill promises, without gradients.
    """

    trained: str
    met: str
    gain: float


@dataclass(frozen=True)
class Arm:
    """A way to play.

    Attributes:
        changes: keys of the run that finds out what to show; none: there is no run.
        mode: of that run.
        bank: what is shown where there is none.
    """

    changes: Changes = field(default_factory=dict)
    mode: str = "adapt"
    bank: SkillBank | None = None


EXPERIMENTS = {
    "unseen": Experiment("pick_and_place,examine", "transform", 0.20),
    "adaptation": Experiment("", "", 0.12),
}
ALONE = "no skills"
ARMS = {
    ALONE: Arm(),
    "best rule": Arm(bank=SkillBank(tuple(r.skill() for r in KNOWN["helpful"][0]))),
    # All that the creator can propose, untested.
    "static": Arm(bank=SkillBank(tuple(rule.skill() for rule in HELPFUL))),
    "reskill": Arm({"strategy.name": "reskill"}),
    "auto_accept": Arm({"strategy.name": "auto_accept"}),
    "reskill+harmful": Arm({"strategy.name": "reskill", **_HARMFUL}),
    "uniform+harmful": Arm(
        {"strategy.name": "uniform", "trial.preset": "paper", **_HARMFUL}
    ),
    "auto_accept+harmful": Arm({"strategy.name": "auto_accept", **_HARMFUL}),
    "expel": Arm({"strategy.name": "expel"}),
    "skillrl": Arm({"strategy.name": "skillrl"}),
    "grpo trained": Arm({"strategy.name": "grpo"}, "train"),
    "reskill trained": Arm({"strategy.name": "reskill"}, "train"),
}


@dataclass(frozen=True)
class Size:
    """How long runs are, and how much is played in the end.

    Attributes:
        first_steps: of GRPO before all else.
        steps: of adaptation or further training.
        tasks: held-out ones, at most.
        samples: episodes per held-out task.
        houses: built to train on and to choose with, of all kinds.
        dev: of these, to choose with.
        held_out: houses built of each of the other splits, of all kinds.
    """

    first_steps: int = 15
    steps: int = 30
    tasks: int = 192
    samples: int = 4
    houses: int = 400
    dev: int = 120
    held_out: int = 384

    @property
    def changes(self) -> Changes:
        """The houses, in keys; no run evaluates, as what is reported is played here."""
        return {
            "env.houses_train": self.houses,
            "env.dev": self.dev,
            "env.houses_eval": self.held_out,
            "eval.splits": (),
        }


def main(argv: Sequence[str]) -> None:
    """Play what is missing, then print the table of all that there is."""
    del argv
    compilation_cache(Path(".cache") / "xla")
    deadline = time.monotonic() + 60 * (_MINUTES.value or float("inf"))
    results = Results(Path(_RESULTS.value))
    found: dict[str, dict[int, Figures]] = {}
    size = Size(**{name: flag.value or 0 for name, flag in _SIZES.items()})
    for name in _ARMS.value:
        for seed in map(int, _SEEDS.value):
            attempt = Attempt(_EXPERIMENT.value, name, seed, size, _SPLIT.value)
            key = identity(attempt.identity)
            figures = results.find(attempt.title, key)
            if figures is None and time.monotonic() < deadline:
                figures = attempt.play(Path(_WORKDIR.value))
                results.add(attempt.title, key, figures)
            if figures is not None:
                found.setdefault(name, {})[seed] = figures
    if ALONE not in found:
        raise app.UsageError(f"nothing to compare with: --arms needs {ALONE!r}")
    print(table(found))
    report(_EXPERIMENT.value, *summary(found, EXPERIMENTS[_EXPERIMENT.value].gain))


@dataclass(frozen=True)
class Attempt:
    """One way to play, with one seed.

    Attributes:
        experiment: key of `EXPERIMENTS`.
        name: of the arm, key of `ARMS`.
        seed: of the runs.
        size: of the runs.
        split: what the held-out tasks are of.
    """

    experiment: str
    name: str
    seed: int
    size: Size
    split: str = SPLITS[0]

    @property
    def title(self) -> str:
        """What stands beside its figures."""
        size = f"{self.size.tasks} x {self.size.samples}"
        if self.split != SPLITS[0]:
            size += f" of {self.split}"
        return f"{self.experiment}, {self.name}, seed {self.seed}, {size}"

    @property
    def arm(self) -> Arm:
        """How it plays."""
        return ARMS[self.name]

    @property
    def _trained(self) -> str:
        return EXPERIMENTS[self.experiment].trained

    @property
    def _before(self) -> Changes:
        """The run that trains the policy first."""
        return {
            "seed": self.seed,
            "num_steps": self.size.first_steps,
            **self.size.changes,
            "strategy.name": "grpo",
            "env.kinds": self._trained,
            "env.eval_kinds": EXPERIMENTS[self.experiment].met,
        }

    @property
    def identity(self) -> Changes:
        """What its figures depend on; the policy is named by its own identity."""
        name = f"trained/{identity(self._before)}" if self._trained else ""
        return {
            **self.changes(name),
            "adapt.frozen": self.arm.mode == "adapt",
            "strategy.bank": self.arm.bank.hash if self.arm.bank else "",
        }

    def changes(self, policy: str) -> Changes:
        """Return how its run differs from `:cpu`."""
        kinds = EXPERIMENTS[self.experiment].met
        return {
            "seed": self.seed,
            "num_steps": self.size.steps if self.arm.changes else 0,
            **self.size.changes,
            "env.kinds": kinds,
            "env.eval_kinds": kinds,
            "policy.path": policy,
            **self.arm.changes,
        }

    def play(self, root: Path) -> Figures:
        """Train, adapt and play the held-out tasks; what is there is not made anew.

        Args:
            root: directory of all runs.
        """
        changes = self.changes(self._policy(root))
        run = Workdir(
            root / f"{self.experiment}-{self.name.replace(' ', '-')}-{self.seed}"
        )
        config = configuration(changes)
        params = None
        context: Context = EmptyContext()
        if self.arm.bank:
            context = BankContext(self.arm.bank)
        if self.arm.changes:
            finish(run.root, changes, mode=self.arm.mode)
            context = accepted(run, config)
            if self.arm.mode == "train":
                params = load_params(config, run, self.size.steps)
        environment = build.load_environment(config)
        panel: TaskPanel = environment.panel(self.split, self.size.tasks)
        told = course(run) if self.arm.changes else {}
        arms = {"": context}
        print(f"playing {panel.label}: {self.title}", flush=True)
        success = play(config, environment, panel, arms, params, self.size.samples)
        return {
            "panel": panel.label,
            "samples": self.size.samples,
            "successes": success[:, 0].sum(axis=1).astype(int).tolist(),  # by task
            "kinds": [task.kind for task in panel],
            **told,
        }

    def _policy(self, root: Path) -> str:
        """Return the directory of the policy, trained now unless it is there."""
        if not self._trained:
            return ""
        run, policy = root / f"policy-{self.seed}", root / f"policy-{self.seed}.hf"
        if not policy.exists():
            finish(run, {**self._before, "checkpoint.every": self.size.first_steps})
            program = (sys.executable, "-m", "reskill_jax.main", "--mode=export")
            places = (f"--workdir={run}", f"--output={policy}")
            subprocess.run((*program, *places), check=True)
        return str(policy)


def accepted(run: Workdir, config: ConfigDict) -> Context:
    """Return what a finished run shows in the end."""
    find_strategy(config.strategy.name)  # its module registers its contexts
    checkpointer = Checkpointer(run.checkpoints, read_only=True)
    try:
        step_only = {"step": jax.ShapeDtypeStruct((), jnp.int32)}
        restored = checkpointer.restore(step_only, config.num_steps, partial=True)
    finally:
        checkpointer.close()
    assert restored is not None  # it names what is missing
    held = restored.host["incumbent"]
    return open_context(held, build.context_resources(config))


def course(run: Workdir) -> Figures:
    """Return what happened in a run: success by step, and every trial."""
    lines = [x for x in read_metrics(run.metrics) if x["phase"] == "train"]
    text = run.trials.read_text() if run.trials.exists() else ""
    trials = [
        decode(PastTrial, json.loads(line), fields="any") for line in text.splitlines()
    ]
    return {
        "course": [float(x["rollout/success"]) for x in lines],
        "trials": [
            {
                "step": trial.step,
                "operations": [describe(x) for x in trial.proposal.operations],
                "accepted": trial.accepted,
                "effect": trial.effect,
            }
            for trial in trials
        ],
    }


def compare(
    found: dict[str, dict[int, Figures]], one: str, other: str, what: str = "successes"
) -> Difference | None:
    """Compare two arms on the seeds that both have; None where there are none.

    Args:
        found: figures by arm and seed.
        one: the first arm.
        other: the second.
        what: successes, on the held-out tasks; or course, success while it learnt, the
            mean over the steps (area under the curve).

    Raises:
        ValueError: they have played different panels.
    """
    seeds = sorted(found.get(one, {}).keys() & found.get(other, {}).keys())
    if not seeds:
        return None
    pairs = [(found[one][seed], found[other][seed]) for seed in seeds]
    for a, b in pairs:
        if (a["panel"], a["samples"]) != (b["panel"], b["samples"]):
            raise ValueError(f"{one} and {other} have not played the same tasks")
    first, second = (np.array([pair[i][what] for pair in pairs], float) for i in (1, 0))
    if what == "course":  # all of a curve is one figure
        first, second = (x.mean(axis=1)[:, None, None] for x in (first, second))
    else:
        first, second = (x[..., None] / pairs[0][0]["samples"] for x in (first, second))
    return paired_difference(first, second)


def points(gain: Difference | None) -> str:
    """Write a difference in points, e.g. ``+12.5 [+3.1, +21.9]``."""
    if gain is None:
        return ""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * gain[i] for i in (0, 2, 3)))


def success(found: dict[int, Figures]) -> float:
    """Return the mean success of an arm."""
    return float(
        np.mean([np.mean(f["successes"]) / f["samples"] for f in found.values()])
    )


def table(found: dict[str, dict[int, Figures]]) -> str:
    """Lay out success of every arm, and its difference to the policy alone."""
    rows: list[list[str | float]] = []
    for name, by_seed in found.items():
        trials = [t for figures in by_seed.values() for t in figures.get("trials", ())]
        taken = f"{sum(t['accepted'] for t in trials)} of {len(trials)}"
        gain = "" if name == ALONE else points(compare(found, name, ALONE))
        rate = f"{success(by_seed):.1%}"
        rows.append([name, len(by_seed), rate, gain, taken if trials else ""])
    header = ["arm", "seeds", "success", "points over no skills, 95%", "accepted"]
    return format_table(header, rows)


def summary(
    found: dict[str, dict[int, Figures]], target: float
) -> tuple[dict[str, float], dict[str, Bar]]:
    """Return the figures behind the table, and what is promised of them."""
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for name, by_seed in found.items():
        figures |= {f"{name}/seeds": len(by_seed), f"{name}/success": success(by_seed)}
        if gain := compare(found, name, ALONE) if name != ALONE else None:
            figures |= {f"{name}/gain": gain.mean, f"{name}/gain_se": gain.error}
    if gain := compare(found, "reskill", ALONE):
        bars["reskill over no skills"] = Bar(gain.mean, target)
    for other in ("static", "auto_accept", "expel", "skillrl"):
        if gain := compare(found, "reskill", other):
            print(f"reskill over {other}: {points(gain)}")
            figures[f"reskill over {other}"] = gain.mean
    by_harm = ("reskill+harmful", "uniform+harmful", "auto_accept+harmful")
    for one, other in itertools.combinations(by_harm, 2):
        if gain := compare(found, one, other):
            print(f"{one} over {other}: {points(gain)}")
            bars[f"{one} over {other}, lower end"] = Bar(gain.low, 0.0)
    if gain := compare(found, "reskill trained", "grpo trained", "course"):
        print(
            f"further training, area under the curve, reskill over grpo: {points(gain)}"
        )
        bars["area, reskill over grpo, lower end"] = Bar(gain.low, 0.0)
    return figures, bars


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", "runs/unseen", "Directory of all runs.")
    _RESULTS = flags.DEFINE_string(
        "results", "docs/results/unseen.jsonl", "File of the figures of finished runs."
    )
    _EXPERIMENT = flags.DEFINE_enum("experiment", "unseen", [*EXPERIMENTS], "Which.")
    _ARMS = flags.DEFINE_list("arms", [*ARMS], "Their names.")
    _SEEDS = flags.DEFINE_list("seeds", [*map(str, range(8))], "Which seeds.")
    _SPLIT = flags.DEFINE_enum("split", SPLITS[0], SPLITS, "Of the held-out tasks.")
    _SIZES = {
        x.name: flags.DEFINE_integer(x.name, getattr(Size, x.name), "See `Size`.")
        for x in fields(Size)
    }
    _MINUTES = flags.DEFINE_float(
        "minutes", 0, "Start no run later than this; 0: any time."
    )
    app.run(main)
