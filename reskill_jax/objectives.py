"""Published objectives, as variants that every experiment has: `:cpu,dapo`.

Each sets what its publication says about advantages, loss and penalties, and the rest
of the objective as it is there by omission: no KL term, the corrected rule. Learning
rate, number of tasks and rollouts belong to a model and its tasks: they stay.
"""

from collections.abc import Mapping
from typing import Any

_COMMON = {"grpo.rule": "corrected", "grpo.kl_coef": 0.0}

OBJECTIVES: dict[str, Mapping[str, Any]] = {
    # DAPO, arXiv 2503.14476, section 3: clip-higher, dynamic sampling (here: groups
    # without variance are dropped, not replaced), token-level loss, soft punishment of
    # long responses, there from 16,384 tokens up to the limit of 20,480; no KL term.
    "dapo": _COMMON
    | {
        "grpo.clip_low": 0.2,
        "grpo.clip_high": 0.28,
        "grpo.aggregation": "token",
        "grpo.drop_zero_variance": True,
        "grpo.overlong": "penalty",
        "grpo.overlong_buffer": 0.2,
        "grpo.overlong_penalty": 1.0,
    },
    # Dr. GRPO, arXiv 2503.20783, section 3: neither a standard deviation nor a length
    # in the divisor, no KL term.
    "dr_grpo": _COMMON
    | {
        "grpo.estimator": "dr_grpo",
        "grpo.aggregation": "constant",
        "grpo.clip_low": 0.2,
        "grpo.clip_high": 0.2,
    },
    # GSPO, arXiv 2507.18071, section 5: a ratio per sequence, clipped at 3e-4 and 4e-4
    # below and above; 4 minibatches. The sequence is a turn here. The mean of n log
    # ratios varies as 1 / sqrt(n), and turns have 10 to 50 tokens instead of about a
    # thousand: the limits are six times as wide.
    "gspo": _COMMON
    | {
        "grpo.loss": "gspo",
        "grpo.clip_low": 1.8e-3,
        "grpo.clip_high": 2.4e-3,
        "grpo.aggregation": "turn",
    },
    # GiGPO, arXiv 2505.10978: omega 1, gamma .95, clip .2, KL .01 (k3). The mode is
    # that of its script for household games, the mean over tokens its library's.
    "gigpo": _COMMON
    | {
        "grpo.estimator": "gigpo",
        "grpo.gigpo.omega": 1.0,
        "grpo.gigpo.gamma": 0.95,
        "grpo.gigpo.mode": "mean_std_norm",
        "grpo.aggregation": "token",
        "grpo.clip_low": 0.2,
        "grpo.clip_high": 0.2,
        "grpo.kl_coef": 0.01,
        "grpo.kl_estimator": "k3",
        "grpo.kl_in": "loss",
    },
}
