"""Runs in the corridor, a world and methods of our own.

python -m reskill_jax.main --config=tests/helpers/corridor_runs.py:again+pauses
"""

import sys

import jax
import numpy as np
from ml_collections import ConfigDict
from programs import get_config as smoke

from reskill_jax import build
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.grpo.optimizer import init_state
from reskill_jax.policy.decoder import abstract_params
from reskill_jax.policy.decoder_config import load_config
from reskill_jax.strategies import STRATEGIES
from reskill_jax.workdir import Workdir


def get_config(mode: str) -> ConfigDict:
    """The configuration file: flags name the policy."""
    return corridor_config("", mode)


def corridor_config(policy, mode="again", **changes) -> ConfigDict:
    """A run of a minute at most.

    Args:
        policy: its directory.
        mode: of corridor_strategies, or the name of a strategy of the package.
        **changes: by dotted key, with __ for the dots.
    """
    config = smoke()
    config.env = ConfigDict(
        {
            "name": "corridor_environment",
            "workers": 1,
            "timeout_s": 60.0,
            "max_attempts": 3,
            "max_failed_groups": 2,
            "train": 12,
            "held_out": 4,
            "remote": False,
            "broken": 0,
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
    if mode in STRATEGIES:
        config.strategy.name = mode
    else:
        config.strategy.name = "corridor_strategies"
        config.strategy.mode = mode
    config.eval.splits = ("held_out",)
    config.eval.every = 3
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    return config


def corridor_command(mode):
    """A command for `programs.start_two`."""

    def command(workdir, policy, *changes):
        return [
            sys.executable,
            "-m",
            "reskill_jax.main",
            f"--config=tests/helpers/corridor_runs.py:{mode}",
            f"--workdir={workdir}",
            f"--config.policy.path={policy}",
            *changes,
        ]

    return command


def last_checkpoint(place, policy):
    """The last step, the bytes of all arrays, and the document beside them."""
    config = corridor_config(policy)
    decoder = load_config(policy)
    tx, _ = build.make_grpo(config, decoder)
    fresh = jax.eval_shape(
        lambda params: init_state(params, tx), abstract_params(decoder)
    )
    checkpointer = Checkpointer(Workdir(place).checkpoints, read_only=True)
    step, arrays, host = checkpointer.restore(fresh)
    checkpointer.close()
    return step, [np.asarray(x).tobytes() for x in jax.tree.leaves(arrays)], host
