"""ScienceWorld: experiments in a house of ten rooms, played by the published simulator.

The agent writes commands; there are a thousand possible ones at a time, so that it is
told their forms and the objects in sight instead of a list. An unclear command is
answered by a question with numbered choices, and the next action has to be a number.

The simulator scores from 0 to 100. An episode is a success above `THRESHOLD` when it
ends, by itself or by the turn limit, and that is what is paid, too. To focus on a wrong
object ends it with -100, which is told as score 0 and ``wrong_focus`` 1.
"""

import json
import re

from reskill_jax.environments.action_format import TaggedFormat
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.scienceworld.machine import (
    Simulator,
    answered_before,
    shared_machine,
)
from reskill_jax.environments.task import Task
from reskill_jax.storage import well_formed

THRESHOLD = 70  # a success scores more; the published rule for rewards
# The published rules: lower case, and the tail of an untagged response is sent, too.
ACTION_FORMAT = TaggedFormat(lower_case=True, untagged_characters=30)
UNKNOWN = "No known action matches that input."
_NOT_UNDERSTOOD = (UNKNOWN, "Unknown action.")
_QUESTION = "Ambiguous request:"
_CHOICE = re.compile(r"^(\d+):\t", re.MULTILINE)
# It would forget what was reached so far, while the world stays as it is.
_HIDDEN = "reset task"
_ARTICLES = ("a", "an", "the")  # that the simulator leaves out, wherever they stand
_TRIMMED = "".join(map(chr, range(33)))  # what Java takes for blanks at the ends


def _is_hidden(action: str) -> bool:
    """Tell whether the simulator would read an action as the hidden command."""
    words = action.lower().strip(_TRIMMED).split()
    words = [word for word in words if word not in _ARTICLES]
    return " ".join(words) == _HIDDEN


class ScienceWorldEnvironment:
    """Plays ScienceWorld (see `reskill_jax.environments.protocol.Environment`).

    Environments of one process share a Java machine, and are called one at a time.

    Args:
        heap_mb: memory for that machine's objects, in MiB.

    Raises:
        ImportError: the extra `scienceworld` is not installed.
        ProcessUnusableError: Java does not start.
    """

    def __init__(self, *, heap_mb: int = 2048):
        self._simulator = Simulator(shared_machine(heap_mb))
        self._playing = False
        self._templates = ""
        self._choices: tuple[str, ...] = ()  # of a question that is open
        self._score = 0

    def reset(self, task: Task) -> tuple[str, Observation]:
        """Start a task; return its goal, and what is seen first.

        Raises:
            ValueError: the task is none of the simulator's.
            ProcessUnusableError: the Java machine is gone.
        """
        name, variation, simplifications = json.loads(task.source)
        self._playing = False
        self._simulator.load(name, variation, simplifications)
        goal = self._simulator.goal.removeprefix("Task Description:").strip()
        self._templates = ", ".join(
            form for form in self._simulator.templates if form != _HIDDEN
        )
        text, self._score, _ = self._simulator.step("look around")
        self._playing, self._choices = True, ()
        return goal, Observation(text.strip(), hint=self._hint())

    def step(self, action: str) -> Observation:
        """Play a command, or answer a question.

        Raises:
            RuntimeError: no episode is running.
            ProcessUnusableError: the Java machine is gone.
        """
        if not self._playing:
            raise RuntimeError(
                f"step({action!r}) outside of an episode: none was started, or it has "
                "ended; call reset(task) first"
            )
        # Nothing is no command either, and gives up a question that is open.
        command = "" if _is_hidden(action) else well_formed(action)
        text, self._score, done = self._simulator.step(command)
        if done:
            return self._end(text.strip())
        if text.startswith(_QUESTION):
            self._choices = tuple(_CHOICE.findall(text))
        elif not answered_before(command):  # what is leaves a question open
            self._choices = ()
        if self._choices:
            return Observation(text.strip(), self._choices, question=True)
        understood = not text.startswith(_NOT_UNDERSTOOD)
        return Observation(text.strip(), hint=self._hint(), understood=understood)

    def finish(self) -> Observation:
        """Score an episode that has reached its turn limit.

        Raises:
            RuntimeError: no episode is running.
        """
        if not self._playing:
            raise RuntimeError("finish() outside of an episode: call reset first")
        return self._end("")

    def close(self) -> None:
        """Leave the simulator to the garbage collectors; the machine goes on."""
        self._playing = False

    def _hint(self) -> str:
        objects = ", ".join(self._simulator.objects)
        return f"Forms of commands: {self._templates}\nObjects: {objects}"

    def _end(self, text: str) -> Observation:
        self._playing = False
        success = self._score > THRESHOLD
        return Observation(
            text,
            reward=float(success),
            done=True,
            success=success,
            scores={
                "score": float(max(self._score, 0)),
                "wrong_focus": float(self._score < 0),
            },
        )
