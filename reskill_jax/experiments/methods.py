"""Shows that every method writes something and reads it again, in two environments.

    python -m reskill_jax.experiments.methods --smoke

plays each strategy for a few steps with the offline writer: in small houses with the
policy that ships with the package, and on sample questions with a scripted agent that
knows half of the answers and asks whatever memory it is told of. The weights stay as
they are: what is shown is that a strategy's own text reaches later prompts. A fixed
bank is given, not written. Left out are what shows no text, and ablations of ReSkill
that show what it shows.
"""

import asyncio
import json
import runpy
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from reskill_jax import build
from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.build_strategy import make_strategy
from reskill_jax.command_line import start
from reskill_jax.environments.panels import TaskPanel, TaskStream
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.search.files import SAMPLE_DIRECTORY
from reskill_jax.environments.task import Task
from reskill_jax.memories.principles import TAG
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.context import Context
from reskill_jax.rollout.engine import Completion, Request
from reskill_jax.rollout.episode import Episode
from reskill_jax.seeds import derive_seed
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.strategies import NEED_BANK, STRATEGIES, holds_trials
from reskill_jax.strategies.base import Learned, Strategy

# What shows nothing, and ablations that show what `reskill` shows.
_SILENT = ("grpo", "react")
_ABLATIONS = ("uniform", "no_discount", "last_step", "no_analyzer")
_BASELINE = 3  # steps of what the others' tokens are compared with
LEFT_OUT = (*_SILENT, *_ABLATIONS, "skill_first", "policy_first")
CONFIGS = ("configs/alfworld.py", "configs/search.py")
MINUTES = 15.0  # that all of it may take on two cores
# Tokens of an episode over those of GRPO plus what is shown once: what is retrieved
# belongs to the trunk. Skills with triggers are shown at turns, which is told apart.
TOKENS = 1.5
# So that a few steps are enough.
_QUICK = {
    "strategy.reservoir_min": 4,
    "strategy.inspo.every": 2,
    "strategy.inspo.checks": 2,
    "strategy.expel.gather_steps": 4,
    "strategy.expel.attempts": 2,
    "strategy.evolver.ask": "goal",
    "eval.splits": (),
}


@dataclass(frozen=True)
class Shown:
    """What a strategy wrote, and where it was read.

    Attributes:
        strategy: its name.
        environment: likewise.
        wrote: the step after which it had new text; 0: it was given.
        read: the first step that showed it to an episode.
        text: some of it.
        seconds: that all steps took.
        spent: what its episodes cost.
    """

    strategy: str
    environment: str
    wrote: int | None
    read: int | None
    text: str
    seconds: float
    spent: "Spent"

    @property
    def complete(self) -> bool:
        """Whether it was both written, or given, and read."""
        return self.wrote is not None and self.read is not None


@dataclass(frozen=True)
class Spent:
    """Tokens of episodes, those of a trunk once, as engine and trainer compute them.

    Attributes:
        tokens: of prompts and responses.
        opening: of what contexts said at the start.
        turns: played.
        by_turn: whether skills were shown at single turns, by their triggers.
    """

    tokens: int
    opening: int
    turns: int
    by_turn: bool

    @classmethod
    def of(cls, episodes: Sequence[Episode], tokenizer: Tokenizer) -> "Spent":
        """Count."""
        turns = [turn for episode in episodes for turn in episode.turns]
        tokens = sum(len(trunk) for e in episodes for trunk in e.trunks)
        tokens += sum(len(turn.branch) + len(turn.response) for turn in turns)
        opening = sum(len(tokenizer.encode(e.opening)) for e in episodes if e.opening)
        shown = any(turn.active_skills for turn in turns)
        return cls(tokens, opening, len(turns), shown)

    def over(self, grpo: "Spent") -> float:
        """Return the tokens over those of GRPO for as many turns, plus the openings."""
        expected = grpo.tokens / grpo.turns * self.turns
        return self.tokens / (expected + self.opening)


class Guesser:
    """A scripted agent for the sample questions; it stands in for an engine.

    In half of the episodes it searches and then answers right, in the others it guesses
    wrong at once. Where its prompt says that there is a memory, it asks that first.
    """

    batch_invariant = True

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        lines = (SAMPLE_DIRECTORY / "questions.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        self._answers = {q["question"].lower(): q["answers"][0] for q in found}
        self._turns: Counter[str] = Counter()  # by session

    async def generate(self, request: Request) -> Completion:
        """Ask, or answer."""
        await asyncio.sleep(0)
        prompt = self._tokenizer.decode(list(request.prompt)).lower()
        known = [question for question in self._answers if question in prompt]
        question = max(known, key=len, default="")
        knows = derive_seed(0, request.session) % 2 == 0
        says = ["<answer>?</answer>"]
        if knows:
            answer = self._answers.get(question, "?")
            says = [f"<search>{question}</search>", f"<answer>{answer}</answer>"]
        if TAG in prompt:
            says.insert(0, f"<{TAG}>{question}</{TAG}>")
        text = says[min(self._turns[request.session], len(says) - 1)]
        self._turns[request.session] += 1
        tokens = np.array(self._tokenizer.encode(text), np.int32)
        return Completion(tokens, np.zeros(len(tokens), np.float32), 0, True)

    def release(self, session: str) -> None:
        """Forget a session."""
        del self._turns[session]

    def push(self, params: Any, version: int) -> None:
        """Do nothing: there are no weights."""

    def sleep(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def main() -> None:
    """Play all strategies in both environments and print what they showed."""
    if not _SMOKE.value:
        raise app.UsageError("--smoke is the only experiment of this command so far")
    started = time.monotonic()
    names = _STRATEGIES.value or [name for name in STRATEGIES if name not in LEFT_OUT]
    found: list[tuple[Shown, float]] = []
    for path in CONFIGS:
        played = smoke(path, ["grpo", *names], _STEPS.value)
        grpo = next(played).spent
        for shown in played:
            found.append((shown, shown.spent.over(grpo)))
            row = _row(*found[-1])
            print(format_table(_HEADER, [row]).splitlines()[-1], flush=True)
    minutes = (time.monotonic() - started) / 60
    print("\n" + format_table(_HEADER, [_row(*pair) for pair in found]))
    complete = sum(shown.complete for shown, _ in found) / len(found)
    costs = [cost for shown, cost in found if not shown.spent.by_turn]
    tokens = max(costs, default=0.0)
    figures = {"complete": complete, "minutes": minutes, "tokens": tokens}
    bars = {
        "complete": Bar(complete, 1.0),
        "minutes": Bar(minutes, MINUTES, at_most=True),
        "tokens": Bar(tokens, TOKENS, at_most=True),
    }
    report("methods", figures, bars)


_HEADER = (
    "strategy",
    "environment",
    "wrote after",
    "read in",
    "seconds",
    "tokens / GRPO's",
    "text",
)


def _row(shown: Shown, cost: float) -> list[str | float]:
    wrote = "never" if shown.wrote is None else f"step {shown.wrote}"
    return [
        shown.strategy,
        shown.environment,
        "given" if shown.wrote == 0 else wrote,
        "never" if shown.read is None else f"step {shown.read}",
        round(shown.seconds),
        f"{cost:.2f}" + (" (by turn)" if shown.spent.by_turn else ""),
        shown.text[:60],
    ]


def smoke(path: str, names: Sequence[str], steps: int) -> Iterator[Shown]:
    """Play strategies in one environment, whose parts they share.

    Args:
        path: the configuration file of the environment; its variant smoke is played.
        names: of the strategies.
        steps: of each, at most: it ends when it has shown both.
    """
    config = runpy.run_path(path)["get_config"]("smoke")
    config.unlock()
    config.update_from_flattened_dict(_QUICK)
    if "houses_train" in config.env:
        config.env.houses_train = 24
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory()))
        environment = build.load_environment(config)
        policy = build.load_policy(config, weights=config.env.name != "search")
        if config.env.name == "search":
            engine: Any = Guesser(policy.tokenizer)
        else:
            config.rollout.max_turns = 16  # as many as its job has
            config.rollout.concurrency = config.engine.max_sequences = 32
            params = policy.join(policy.params)
            engine, _ = build.make_engine(config, policy, params, 0, resources)
        collector = build.make_collector(config, environment, policy, engine, resources)
        bank = SkillBank(tuple(rule.skill() for rule in environment.rules.rules[:4]))
        save_bank(bank, folder / "bank")
        for name in names:
            own = config.copy_and_resolve_references()
            own.strategy.name = name
            own.strategy.bank = str(folder / "bank") if name in NEED_BANK else ""
            if holds_trials(name) or name == "auto_accept":
                # The offline creator says nothing before it has 20 records, of which
                # there is one per task and outcome.
                own.rollout.tasks_per_step, own.grpo.group_size = 8, 2
            strategy = make_strategy(
                own, environment, collector.prompts, folder / f"{name}.jsonl"
            )
            panel = environment.panel("train", None)
            yield _play(own, strategy, collector, panel, steps)


def _play(
    config: ConfigDict,
    strategy: Strategy,
    collector: Collector,
    panel: TaskPanel,
    steps: int,
) -> Shown:
    """Play the steps of a strategy, and look for its text in what is shown."""
    started = time.monotonic()
    name = config.strategy.name
    stream = TaskStream(panel, config.seed)
    given = name in NEED_BANK
    wrote, read, text = (0 if given else None), None, ""
    played: list[Episode] = []
    for step in range(1, steps + 1):
        plan = strategy.plan(step, stream.draw)
        episodes = asyncio.run(
            collector.collect(
                plan.tasks,
                plan.arms,
                plan.contexts,
                sampling=build.sampling(config),
                seed=derive_seed(config.seed, "rollout", step),
                what=f"{name}, step {step}: playing",
                only_whole_groups=True,
            )
        )
        played += [episode for episode in episodes if not episode.lost]
        said = _shown(plan.contexts, episodes) - {""}
        if step == 1:  # before anything could be written
            known = set() if given else said
        if new := sorted(said - known):
            lines = {line for one in known for line in one.splitlines()}
            own = [line for line in new[-1].splitlines() if line not in lines]
            read, text = step, " ".join(own)
        learned = strategy.observe(step, [e for e in episodes if not e.lost])
        if wrote is None and _writes(learned):
            wrote = step
        if (wrote is not None and read is not None) or (
            name in _SILENT and step == _BASELINE
        ):
            break
    seconds = time.monotonic() - started
    shown = " ".join(text.split())
    spent = Spent.of(played, collector.prompts.tokenizer)
    return Shown(name, config.env.name, wrote, read, shown, seconds, spent)


def _writes(learned: Learned) -> bool:
    """Tell whether a strategy has new text after a step."""
    keys = ("memory/written", "memory/rules")
    events = ("on trial", "accepted")
    return any(learned.metrics.get(key) for key in keys) or any(
        word in event for event in learned.events for word in events
    )


def _shown(contexts: Sequence[Context], episodes: Sequence[Episode]) -> set[str]:
    """Return what episodes were shown beside their environment."""
    said: set[str] = set()
    for episode in episodes:
        if episode.turns:
            context = contexts[episode.arm]
            said.add(_opening(context, episode.task, episode))
            names = {name for turn in episode.turns for name in turn.active_skills}
            said.add(", ".join(sorted(names)))
    return said


def _opening(context: Context, task: Task, episode: Episode) -> str:
    """Begin an episode again as it was begun; retrieval changes nothing."""
    now = Observation(episode.turns[0].observation)
    return asyncio.run(context.begin(task, episode.goal, now)).opening


if __name__ == "__main__":
    _SMOKE = flags.DEFINE_bool(
        "smoke", False, "One write and one read of each strategy."
    )
    _STEPS = flags.DEFINE_integer(
        "most_steps", 12, "Most steps of each strategy.", lower_bound=1
    )
    _STRATEGIES = flags.DEFINE_list("strategies", [], "Their names; empty: all.")
    start(main)
