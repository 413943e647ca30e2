"""What do methods add to GRPO, from the warm start and on all kinds of tasks?

    python -m reskill_jax.experiments.laboratory

Every arm trains for 30 steps; area under the curve counts first, success on held-out
houses second. Flags: see `attempt.start`.
"""

from reskill_jax.experiments.arms import ALONE, Claim, Experiment
from reskill_jax.experiments.attempt import start

EXPERIMENT = Experiment(
    "laboratory",
    "",
    "",
    (
        "grpo trained",
        *("reskill trained", "auto_accept trained", "uniform trained"),
        *("skillrl trained", "static trained", "memrl trained", "evolver trained"),
        *("inspo trained", "reskill+harmful trained", "auto_accept+harmful trained"),
        *("best rule trained", "remark trained"),
        ALONE,
    ),
    (
        Claim("grpo trained", ALONE, 0.20),
        Claim("reskill trained", "grpo trained", 0.0, "course"),
        Claim("reskill trained", "grpo trained", 0.0),
        Claim("reskill+harmful trained", "auto_accept+harmful trained", 0.0, "course"),
    ),
)

if __name__ == "__main__":
    start(EXPERIMENT)
