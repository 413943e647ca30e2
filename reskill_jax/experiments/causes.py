"""Why do skills add so little to GRPO from the warm start? One cause at a time.

    python -m reskill_jax.experiments.causes

Arms train for 30 steps on all kinds of tasks, as in `laboratory`, with other seeds, and
play held-out houses that choices are made on, not those that are reported:

- the rule that helps most is there from the first step to the last (what there is to
  gain, were it proposed and accepted at once), or a remark that says nothing (what of
  that any text would do);
- proposals are asked for from the first step on;
- episodes of a trial are compared less what their arm is known to add;
- a KL term holds the policy near the warm start, which was taught to follow skills;
- GRPO learns at a tenth of the rate.

Flags: see `attempt.start`.
"""

from reskill_jax.experiments.arms import Claim, Experiment
from reskill_jax.experiments.attempt import start

EXPERIMENT = Experiment(
    "causes",
    "",
    "",
    (
        *("grpo trained", "reskill trained"),
        *("best rule trained", "remark trained", "reskill trained early"),
        "reskill trained adjusted",
        *("grpo trained near", "reskill trained near"),
        *("grpo trained slowly", "reskill trained slowly", "remark trained slowly"),
    ),
    (
        Claim("best rule trained", "remark trained", 0.0, "course"),
        Claim("reskill trained slowly", "remark trained slowly", 0.0, "course"),
        *(
            Claim(f"reskill trained {how}", f"grpo trained {how}", 0.0, "course")
            for how in ("near", "slowly")
        ),
    ),
    splits=("dev",),
    seeds=(100, 101, 102),
)

if __name__ == "__main__":
    start(EXPERIMENT)
