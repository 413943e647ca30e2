"""What trees save the main job: one of its steps, with and without them.

    python -m reskill_jax.benchmarks.job

plays the tasks of the first training step of configs/alfworld.py:cpu,bare with its
policy, then times, in turn, the best of several,

- the step's update on these episodes as trees, and with a row for every turn;
- the engine answering all their turns again, with the prefixes that it keeps, and with
  prompts of which it never finds anything again.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import jax
import numpy as np
from absl import flags

from reskill_jax import build
from reskill_jax.benchmarks.reporting import format_table, report
from reskill_jax.benchmarks.runs import configuration
from reskill_jax.benchmarks.timing import in_turn
from reskill_jax.benchmarks.trees import as_flat, flat_prompt
from reskill_jax.command_line import start
from reskill_jax.environments.panels import TaskStream
from reskill_jax.grpo.optimizer import TrainState, init_state
from reskill_jax.rollout.context import EmptyContext
from reskill_jax.rollout.engine import Request, Sampling
from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.jax.engine import JaxEngine

_TIMINGS = flags.DEFINE_integer("timings", 3, "Of each, of which the best counts.")


def main() -> None:
    """Play, then time."""
    config = configuration({})
    with ExitStack() as resources:
        environment = build.load_environment(config)
        panel = build.load_panels(config, environment).train
        policy = build.load_policy(config)
        reference = build.make_reference(config, policy)
        tx, update = build.make_grpo(config, policy.config, policy.mesh)
        engine, _ = build.make_engine(
            config, policy, policy.join(policy.params), 0, resources
        )
        collector = build.make_collector(config, environment, policy, engine, resources)
        chosen = TaskStream(panel, config.seed).draw(config.rollout.tasks_per_step)
        arms = np.zeros((len(chosen), config.grpo.group_size), np.int32)
        sampling = build.sampling(config)
        episodes = asyncio.run(
            collector.collect(
                chosen, arms, (EmptyContext(),), sampling=sampling, seed=config.seed
            )
        )

        if lost := [episode for episode in episodes if episode.lost]:
            raise RuntimeError(f"{lost[0].task} cannot be played: {lost[0].lost}")

        def train(episodes: Sequence[Episode]) -> Callable[[], TrainState]:
            def once() -> TrainState:
                params = jax.tree.map(lambda x: x.copy(), policy.params)
                state = init_state(params, tx, policy.mesh)
                state, _ = update(
                    state, reference, episodes, seed=0, frozen=policy.frozen
                )
                return jax.block_until_ready(state)

            return once

        engine = collector.engine
        assert isinstance(engine, JaxEngine)
        flat = list(map(as_flat, episodes))
        times = in_turn(
            [
                train(flat),
                train(episodes),
                lambda: play_again(engine, episodes, policy, flat=True),
                lambda: play_again(engine, episodes, policy, flat=False),
            ],
            _TIMINGS.value,
        )
    names = ("update, seconds", "answers of the engine, seconds")
    pairs = dict(zip(names, (times[:2], times[2:]), strict=True))
    pairs["both, seconds"] = [times[0] + times[2], times[1] + times[3]]
    rows: list[list[str | float]] = [
        [name, *pair, pair[0] / pair[1]] for name, pair in pairs.items()
    ]
    turns = sum(len(episode.turns) for episode in episodes)
    print(f"{len(episodes)} episodes, {turns} turns")
    print(format_table(["a step of the main job", "flat", "trees", "ratio"], rows))
    figures = {
        f"{name}, {kind}": seconds
        for name, pair in pairs.items()
        for kind, seconds in zip(("flat", "trees"), pair, strict=True)
    }
    report("job", figures, {})


def play_again(
    engine: JaxEngine, episodes: Sequence[Episode], policy: build.Policy, *, flat: bool
) -> None:
    """Ask for all turns, every episode at its own pace, from an empty cache.

    Flat, every prompt begins with a token of its own. Responses have the length that
    they had, or end earlier.
    """
    engine.push(policy.join(policy.params), 0)
    ends = np.cumsum([len(episode.turns) for episode in episodes])

    async def one(number: int, episode: Episode) -> None:
        for index, turn in enumerate(episode.turns):
            prompt = flat_prompt(episode, turn).tolist()
            place = int(ends[number]) - index
            if flat:
                prompt[0] = place % policy.config.vocab_size
            sampling = Sampling(max_tokens=len(turn.response))
            await engine.generate(Request(str(number), prompt, sampling, place))

    async def everyone() -> None:
        await asyncio.gather(*(one(i, e) for i, e in enumerate(episodes)))

    asyncio.run(everyone())


if __name__ == "__main__":
    start(main)
