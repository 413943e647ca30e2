"""Checks that a run plays enough for the creator to be asked at all."""

from absl import logging

from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.strategies.base import Setup


def check_reservoir(reservoir: Reservoir, setup: Setup) -> None:
    """Refuse a run in which the creator can never be asked, which would be plain GRPO.

    Warn where it is asked only if all goes well.

    Raises:
        ValueError: as above.
    """
    needed = setup.settings["reservoir_min"]
    panel = len(setup.panel(setup.split, None))
    tasks = min(panel, reservoir.window * setup.tasks_per_step)
    most = reservoir.most(tasks)
    if needed > most:
        raise ValueError(
            f"reservoir_min={needed}: one record is kept per task and outcome, so that "
            f"{tasks} tasks in {reservoir.window} steps give at most {most}, and the "
            f"creator would never be asked: lower it to {tasks} or less"
        )
    played = min(tasks, setup.num_steps * setup.tasks_per_step)
    if played and needed > reservoir.most(played, both_outcomes=False):
        logging.warning(
            "reservoir_min=%d: %d tasks are played, with one record per task and "
            "outcome, so that the creator is asked late or never",
            needed,
            played,
        )
