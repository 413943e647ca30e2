"""What is each part of ReSkill worth, from the warm start and on all kinds of tasks?

    python -m reskill_jax.experiments.ablations

Every arm trains for 30 steps and is compared with ReSkill as it is by default. Its runs
are those of `laboratory`. Flags: see `attempt.start`.
"""

from reskill_jax.experiments.arms import Experiment
from reskill_jax.experiments.attempt import start

EXPERIMENT = Experiment(
    "ablations",
    "",
    "",
    (
        "reskill trained",
        *("paper trained", "uniform trained", "no_discount trained"),
        *("last_step trained", "auto_accept trained", "no_analyzer trained"),
        *("skill_first trained", "policy_first trained", "grpo trained"),
    ),
    shares="laboratory",
)

if __name__ == "__main__":
    start(EXPERIMENT)
