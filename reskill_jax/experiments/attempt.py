"""An arm played with one seed, and the command that plays what is missing.

Episodes are sampled as in training. Figures of finished runs are kept in --results, so
that a command may be interrupted and started again. Several commands with other --seeds
may run side by side.
"""

import itertools
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import ConfigDict

from reskill_jax import build
from reskill_jax.benchmarks import runs
from reskill_jax.benchmarks.reporting import report
from reskill_jax.benchmarks.runs import (
    Changes,
    Figures,
    Results,
    configuration,
    finish,
    identity,
    refuse_other,
)
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.experiments.arms import ARMS, Arm, Experiment
from reskill_jax.experiments.ceiling import load_params, play
from reskill_jax.experiments.comparison import summary, table
from reskill_jax.process import compilation_cache
from reskill_jax.report.decisions import read_trials
from reskill_jax.report.metrics import read_metrics
from reskill_jax.rollout.context import (
    BankContext,
    Context,
    EmptyContext,
    open_context,
)
from reskill_jax.skills.operations import describe
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.strategies import find_strategy
from reskill_jax.workdir import Workdir


@dataclass(frozen=True)
class Size:
    """How long runs are, and how much is played in the end.

    Attributes:
        first_steps: of training before all else.
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
    def built(self) -> Changes:
        """The houses, in keys."""
        return {
            "env.houses_train": self.houses,
            "env.dev": self.dev,
            "env.houses_eval": self.held_out,
        }


def start(experiment: Experiment) -> None:
    """Read the command line, play what is missing, and print the table of all there is.

    Args:
        experiment: what is compared.
    """
    name = experiment.name
    setting = experiment.setting
    flags.disclaim_key_flags()  # they are the command's own: --help of it lists them
    workdir = flags.DEFINE_string(
        "workdir", f"runs/{setting}", "Directory of all runs."
    )
    kept = flags.DEFINE_string(
        "results",
        f"docs/results/{setting}.jsonl",
        "File of the figures of finished runs.",
    )
    arms = flags.DEFINE_list("arms", [*experiment.arms], "Their names.")
    seeds = flags.DEFINE_list("seeds", [*map(str, experiment.seeds)], "Which seeds.")
    split = flags.DEFINE_enum(
        "split", experiment.splits[0], experiment.splits, "Of the held-out tasks."
    )
    sizes = {
        x.name: flags.DEFINE_integer(
            x.name, getattr(Size, x.name), "See `Size`.", lower_bound=1
        )
        for x in fields(Size)
    }
    config = flags.DEFINE_string(
        "config",
        experiment.config,
        "File and variants of the configuration that runs differ from.",
    )
    minutes = flags.DEFINE_float(
        "minutes", 0, "Start no run later than this; 0: any time."
    )

    def main() -> None:
        compilation_cache(Path(".cache") / "xla")
        if unknown := set(arms.value) - set(ARMS):
            raise app.UsageError(f"--arms has {sorted(unknown)}: choose of {[*ARMS]}")
        others = [arm for arm in arms.value if ARMS[arm].trainer != "grpo"]
        if others and not experiment.trained:
            raise app.UsageError(f"--arms has {others}: {name} trains nothing before")
        if not all(seed.isdecimal() for seed in seeds.value):
            raise app.UsageError(f"--seeds={','.join(seeds.value)}: give numbers")
        chosen = replace(experiment, config=config.value)
        size = Size(**{name: flag.value or 0 for name, flag in sizes.items()})
        results = Results(Path(kept.value), minutes.value)
        found: dict[str, dict[int, Figures]] = {}
        for arm, seed in itertools.product(arms.value, map(int, seeds.value)):
            attempt = Attempt(chosen, arm, seed, size, split.value)
            play = partial(attempt.play, Path(workdir.value))
            figures = results.obtain(attempt.title, attempt.key, play)
            if figures is not None:
                found.setdefault(arm, {})[seed] = figures
        print(table(found, experiment.arms[0]))
        report(name, *summary(found, chosen))

    runs.start(main)


@dataclass(frozen=True)
class Attempt:
    """One way to play, with one seed.

    Attributes:
        experiment: what it belongs to.
        name: of the arm, key of `ARMS`.
        seed: of the runs.
        size: of the runs.
        split: what the held-out tasks are of.
    """

    experiment: Experiment
    name: str
    seed: int
    size: Size
    split: str

    @property
    def title(self) -> str:
        """What stands beside its figures."""
        size = f"{self.size.tasks} x {self.size.samples}"
        if self.split != self.experiment.splits[0]:
            size += f" of {self.split}"
        return f"{self.experiment.setting}, {self.name}, seed {self.seed}, {size}"

    @property
    def arm(self) -> Arm:
        """How it plays."""
        return ARMS[self.name]

    @property
    def _before(self) -> Changes:
        """The run that trains the policy first."""
        return {
            "seed": self.seed,
            "num_steps": self.size.first_steps,
            **self._tasks(self.experiment.trained),
            **self.experiment.changes,
            "strategy.name": self.arm.trainer,
        }

    def _tasks(self, kinds: str) -> Changes:
        """What is played; no run evaluates, as what is reported is played here."""
        if not self.experiment.houses:
            return {"eval.splits": ()}
        return {
            "eval.splits": (),
            **self.size.built,
            "env.kinds": kinds,
            "env.eval_kinds": self.experiment.met,
        }

    @property
    def key(self) -> str:
        """Hash of what its figures depend on, a policy trained before among it."""
        config = self.experiment.config
        name = ""
        if self.experiment.trained:
            name = f"trained/{identity(self._before, config)}"
        frozen = self.arm.mode == "adapt"
        bank = self.arm.bank.hash if self.arm.bank else ""
        changes = self.changes(name)
        changes |= {"adapt.frozen": frozen, "strategy.bank": bank}
        return identity(changes, config)

    def changes(self, policy: str) -> Changes:
        """Return how its run differs from the experiment's configuration."""
        return {
            "seed": self.seed,
            "num_steps": self.size.steps if self.arm.changes else 0,
            **self._tasks(self.experiment.met),
            **self.experiment.changes,
            "policy.path": policy,
            **self.arm.changes,
        }

    def play(self, root: Path) -> Figures:
        """Train, adapt and play the held-out tasks; what is there is not made anew.

        Args:
            root: directory of all runs.

        Raises:
            UnusableResultError: a run or a policy there is of another configuration.
        """
        changes = self.changes(self._policy(root))
        setting = self.experiment.setting
        run = Workdir(root / f"{setting}-{self.name.replace(' ', '-')}-{self.seed}")
        config = configuration(changes, self.experiment.config)
        params = None
        context: Context = EmptyContext()
        told: Figures = {}
        if self.arm.changes:
            if self.arm.bank:
                bank = root / f"bank-{self.arm.bank.hash}"
                if not bank.exists():
                    save_bank(self.arm.bank, bank)
                changes["strategy.bank"] = str(bank)
            finish(run.root, changes, self.experiment.config, mode=self.arm.mode)
            context, told = accepted(run, config), course(run)
            if self.arm.mode == "train":
                params = load_params(config, run, self.size.steps)
        elif self.arm.bank:
            context = BankContext(self.arm.bank)
        environment = build.load_environment(config)
        panel: TaskPanel = environment.panel(self.split, self.size.tasks)
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
        if not self.experiment.trained:
            return ""
        trainer = self.arm.trainer
        name = "policy" if trainer == "grpo" else f"policy-{trainer}"
        run, policy = (root / f"{name}-{self.seed}{end}" for end in ("", ".hf"))
        before, config = self._before, self.experiment.config
        if policy.exists():
            refuse_other(policy / "run_config.json", before, config)
        else:
            before["checkpoint.every"] = self.size.first_steps
            finish(run, before, config)
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
    return {
        # Of a step of which all groups were lost there is none.
        "course": [x["rollout/success"] for x in lines if "rollout/success" in x],
        "trials": [
            {
                "step": trial.step,
                "operations": [describe(x) for x in trial.proposal.operations],
                "accepted": trial.accepted,
                "effect": trial.effect,
            }
            for trial in read_trials(run.trials)
        ],
    }
