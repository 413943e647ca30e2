"""A small deterministic world: walk to the right door. Importable by workers."""

from reskill_jax.environments.action_format import TaggedFormat
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.environments.wording import Wording

ACTIONS = ("left", "right", "look")
GOAL = 3
# What a random policy says reaches the world, though hardly ever with tags.
FORMAT = TaggedFormat(lower_case=True, untagged_characters=30)
WORDING = Wording(  # short, for a random policy spells everything out
    role="",
    start="{observation}\n",
    usual="[{actions}]\n",
    turn="> {action}\n{observation}\n",
    actions="[{actions}]\n",
    all_usual="as above",
    but=", not {actions}",
    and_also="; {actions}",
    skill="* {when_to_use} {action}\n",
    skills="{skills}",
    no_skill="",
    request="{goal}\n",
)


class Corridor:
    """A corridor; the goal is door 3. The text depends on all that was done."""

    def reset(self, task: Task) -> tuple[str, Observation]:
        self._door, self._played = int(task.source), 0
        return "reach door 3", self._see()

    def step(self, action: str) -> Observation:
        self._played += 1
        self._door += {"left": -1, "right": 1}.get(action, 0)
        return self._see(understood=action in ACTIONS)

    def finish(self) -> Observation:
        return Observation("", done=True)

    def close(self) -> None:
        pass

    def _see(self, understood: bool = True) -> Observation:
        won = self._door == GOAL
        return Observation(
            f"door {self._door} after {self._played}",
            ACTIONS,
            reward=float(won),
            done=won,
            success=won,
            understood=understood,
        )


def tasks(count: int) -> list[Task]:
    return [
        Task(f"train/walk-{k}/t", "walk", "train", str(k % 3)) for k in range(count)
    ]
