"""What does the policy for small houses find out in the published games?

    ALFWORLD_DATA=DIR python -m reskill_jax.experiments.adaptation_games

As in `adaptation`, the warm start learns no more and arms meet tasks for 30 steps: here
the training games of the download. They play the games of `valid_seen`, or those of
another split that is there. Flags: see `attempt.start`.
"""

from reskill_jax.experiments.arms import ALONE, Claim, Experiment
from reskill_jax.experiments.attempt import start

EXPERIMENT = Experiment(
    "adaptation_games",
    "",
    "",
    (ALONE, "best rule", "reskill", "auto_accept"),
    (Claim("reskill", ALONE, 0.0), Claim("reskill", "auto_accept", 0.0)),
    # The longest prompts that the policy has room for, and turns for larger houses.
    {
        "env.houses": "",
        "prompt.max_tokens": 1000,
        "rollout.max_turns": 30,
        "grpo.buckets": (1024,),
    },
    splits=("valid_seen", "valid_unseen"),
    houses=False,
)

if __name__ == "__main__":
    start(EXPERIMENT)
