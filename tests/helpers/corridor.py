"""A small deterministic world: walk to the right door. Importable by workers."""

from reskill_jax.environments.protocol import Observation, Task

ACTIONS = ("left", "right", "look")
GOAL = 3


class Corridor:
    """A corridor; the goal is door 3. The text depends on all that was done."""

    def reset(self, task: Task) -> tuple[str, Observation]:
        self._door, self._played = int(task.source), 0
        return "reach door 3", self._see()

    def step(self, action: str) -> Observation:
        self._played += 1
        self._door += {"left": -1, "right": 1}.get(action, 0)
        return self._see()

    def close(self) -> None:
        pass

    def _see(self) -> Observation:
        won = self._door == GOAL
        text = f"door {self._door} after {self._played}"
        return Observation(text, ACTIONS, float(won), won, won)


def tasks(count: int) -> list[Task]:
    return [
        Task(f"train/walk-{k}/t", "walk", "train", str(k % 3)) for k in range(count)
    ]
