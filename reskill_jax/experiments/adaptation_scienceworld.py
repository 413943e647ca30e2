"""What does a policy that was warmed on both worlds find out in ScienceWorld?

    python -m reskill_jax.experiments.adaptation_scienceworld

As in `adaptation`, the warm start learns no more and arms meet tasks for 30 steps. They
play other variations of the kinds that they have met (`test`), or a kind that they have
not (`unseen`). Flags: see `attempt.start`.
"""

from reskill_jax.experiments.arms import ALONE, Claim, Experiment
from reskill_jax.experiments.attempt import start

EXPERIMENT = Experiment(
    "adaptation_scienceworld",
    "",
    "",
    (ALONE, "reskill", "auto_accept"),
    (Claim("reskill", ALONE, 0.0), Claim("reskill", "auto_accept", 0.0)),
    splits=("test", "unseen", "dev"),
    config="configs/scienceworld.py:cpu,both",
    houses=False,
)

if __name__ == "__main__":
    start(EXPERIMENT)
