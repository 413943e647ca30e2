"""The batch of every step: collected when the step begins, or one step ahead.

    batch = batches.take(step, params, version)      # the step's episodes
    batches.start(step + 1, params, version)         # in a thread ...
    params = update(params, batch.training_episodes) # ... while the policy trains

A batch that is started ahead is sampled by the weights that the update beside it starts
from, so it is one update old when it is learnt from. The engine gets weights only
between batches: with what follows from the step, they decide what is sampled, whether
or not a run was interrupted. Nothing is started ahead of the last step, so a run that
is made longer goes on as it began, with a batch of the newest weights.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from reskill_jax.codec import decode, encode
from reskill_jax.rollout.collector import rollout_metrics
from reskill_jax.rollout.engine import Engine
from reskill_jax.rollout.episode import Episode, LostGroup, whole_groups
from reskill_jax.rollout.metrics import group_metrics
from reskill_jax.terminal import activity


class Planned(NamedTuple):
    """What a step plays, settled; nothing is played yet.

    Attributes:
        episodes: plays them when awaited.
        train: groups that the policy learns from, in order.
        effects: by arm, see `Episode.arm_effect`; those that are not named have 0.
    """

    episodes: Coroutine[Any, Any, list[Episode]]
    train: tuple[int, ...]
    effects: tuple[float, ...] = ()


Plan = Callable[[int], Planned]  # of a step


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Attributes:
        episodes: ordered by group, then by index within the group; of whole groups.
        train: groups that the policy learns from, in order.
        seconds: that it took to collect the episodes.
        waited: seconds that the trainer had to wait for it.
        lost: groups that were dropped, since an episode of theirs was lost.
    """

    episodes: list[Episode]
    train: tuple[int, ...]
    seconds: float
    waited: float = 0.0
    lost: tuple[LostGroup, ...] = ()

    @property
    def training_episodes(self) -> list[Episode]:
        """Those that the policy learns from."""
        return [episode for episode in self.episodes if episode.group in self.train]

    def metrics(self, version: int) -> dict[str, float]:
        """Summarise it for a trainer whose weights have this version.

        ``rollout/staleness`` is how many versions the sampled tokens are behind it, on
        average.
        """
        turns = [turn for episode in self.episodes for turn in episode.turns]
        sampled = sum(len(turn.response) for turn in turns)
        behind = sum(len(turn.response) * (version - turn.version) for turn in turns)
        figures = rollout_metrics(self.episodes, self.seconds)
        return (
            group_metrics(self.episodes)
            | figures
            | {
                "rollout/failed_groups": float(len(self.lost)),
                "rollout/staleness": behind / max(sampled, 1),
                "time/wait": self.waited,
            }
        )


class Batches:
    """Hands out the batches of the steps; see the module's docstring."""

    def __init__(self, engine: Engine, plan: Plan, version: int):
        """Have nothing started.

        Args:
            engine: that episodes are sampled with; only this object gives it weights.
            plan: settles what a step plays.
            version: of the weights that the engine has.
        """
        self._engine = engine
        self._plan = plan
        self._version: int | None = version  # None: the engine sleeps
        self._running: _Thread | None = None
        self._ahead: Batch | None = None

    def take(self, step: int, params: Any, version: int) -> Batch:
        """Return the batch that was started; if none was, collect that of `step` now.

        Args:
            step: which.
            params: the weights that sample it now.
            version: of those.

        Raises:
            Exception: what collecting raised, here or in its thread.
        """
        self._wait()
        if self._ahead is None:
            started = time.perf_counter()
            self.serve(params, version)
            batch = asyncio.run(_timed(self._plan(step)))
            return replace(batch, waited=time.perf_counter() - started)
        batch, self._ahead = self._ahead, None
        return batch

    def start(self, step: int, params: Any, version: int) -> None:
        """Begin to collect the batch of a step, in a thread; see `take`."""
        self.serve(params, version)
        self._running = _Thread(_timed(self._plan(step)))

    def serve(self, params: Any, version: int) -> None:
        """Wait for the batch that was started; then let the engine have these weights.

        Raises:
            Exception: what collecting raised.
        """
        self._wait()
        if version != self._version:
            with activity("sending the weights to the engine"):
                self._engine.push(params, version)
            self._version = version

    def sleep(self) -> None:
        """Let the engine sleep until weights come; nothing may have been started."""
        self._engine.sleep()
        self._version = None

    def state(self) -> dict[str, Any] | None:
        """Wait for the batch that was started and return it, for a checkpoint."""
        self._wait()
        return encode(self._ahead)

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go back to a state.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            self._ahead = decode(Batch | None, state, name="batch")
            if self._ahead:
                _require_order(self._ahead.episodes)
        except ValueError as error:
            raise ValueError(
                f"the checkpoint's batch is not a recorded one ({error}): resume "
                "with the version that wrote it, or choose another --workdir"
            ) from error

    def close(self) -> None:
        """Stop collecting; to be called before the engine is closed."""
        if self._running is not None:
            self._running.stop()

    def _wait(self) -> None:
        if self._running is not None:
            started = time.perf_counter()
            batch = self._running.result()
            # In this order: SIGTERM may end it here, and a checkpoint then waits again.
            self._ahead = replace(batch, waited=time.perf_counter() - started)
            self._running = None


def _require_order(episodes: Sequence[Episode]) -> None:
    places = [(episode.group, episode.index) for episode in episodes]
    if places != sorted(set(places)):
        raise ValueError("the episodes are not ordered by group and index")


async def _timed(planned: Planned) -> Batch:
    started = time.perf_counter()
    episodes, lost = whole_groups(await planned.episodes)
    effects = dict(enumerate(planned.effects))
    for episode in episodes:
        episode.arm_effect = effects.get(episode.arm, 0.0)
    groups = {episode.group for episode in episodes}
    return Batch(
        episodes,
        tuple(group for group in planned.train if group in groups),
        time.perf_counter() - started,
        lost=lost,
    )


class _Thread(threading.Thread):
    """Runs a coroutine; a daemon, so that no program's end waits for it."""

    def __init__(self, work: Coroutine[Any, Any, Batch]):
        super().__init__(name="rollout", daemon=True)
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._task = self._loop.create_task(work)
        self.start()

    def run(self) -> None:
        """Run it to its end, and whatever it has begun."""
        with self._runner:
            self._loop.run_until_complete(asyncio.wait([self._task]))

    def result(self) -> Batch:
        """Wait for it; what it raised is raised here, with its traceback."""
        self.join()
        return self._task.result()

    def stop(self) -> None:
        """Cancel it and wait until it has ended."""
        with suppress(RuntimeError):  # the loop is closed: it had ended
            self._loop.call_soon_threadsafe(self._task.cancel)
        self.join()
