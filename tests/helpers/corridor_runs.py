"""Configurations of runs in the corridor, a world and methods of our own."""

from ml_collections import ConfigDict
from programs import get_config


def corridor_config(policy, mode="again", **changes) -> ConfigDict:
    """A run of a minute at most; `changes` by dotted key, with __ for the dots."""
    config = get_config()
    config.env = ConfigDict(
        {
            "name": "corridor_environment",
            "workers": 1,
            "timeout_s": 60.0,
            "max_attempts": 3,
            "train": 12,
            "held_out": 4,
            "remote": False,
        }
    )
    config.policy.path = str(policy)
    config.prompt.wording = "short"
    config.prompt.actions = True
    config.prompt.max_tokens = 280
    config.num_steps = 6
    config.rollout.tasks_per_step = 3
    config.rollout.max_turns = 4
    config.rollout.max_tokens = 8
    config.grpo.group_size = 3
    config.grpo.minibatches = 1
    config.grpo.buckets = (320,)
    config.grpo.tokens_per_microbatch = 1920
    config.strategy.name = "corridor_strategies"
    config.strategy.mode = mode
    config.eval.splits = ("held_out",)
    config.eval.every = 3
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    return config
