"""Do skills help a policy that learns slowly from rewards that are rare?

    python -m reskill_jax.experiments.sparse

As in `unseen`, the policy that plain GRPO has trained on some kinds of tasks meets the
other kinds, of which it wins one in twenty-five. It is trained on them at a tenth of
the usual learning rate. Flags: see `attempt.start`.
"""

from reskill_jax.experiments import unseen
from reskill_jax.experiments.arms import Claim, Experiment
from reskill_jax.experiments.attempt import start

EXPERIMENT = Experiment(
    "sparse",
    unseen.EXPERIMENT.trained,
    unseen.EXPERIMENT.met,
    (
        *("grpo trained slowly", "reskill trained slowly"),
        *("best rule trained slowly", "remark trained slowly"),
    ),
    (
        Claim("reskill trained slowly", "grpo trained slowly", 0.0, "course"),
        Claim("reskill trained slowly", "remark trained slowly", 0.0, "course"),
    ),
    unseen.EXPERIMENT.changes,
)

if __name__ == "__main__":
    start(EXPERIMENT)
