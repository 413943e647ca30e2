"""Random ragged episodes and a tiny attention model, shared by the tests of grpo/."""

import jax
import jax.numpy as jnp
import numpy as np

from reskill_jax.environments.protocol import Task
from reskill_jax.grpo.outcomes import Outcomes
from reskill_jax.rollout.episode import Episode, Turn

VOCAB = 11
MAX_POSITIONS = 64
TASK = Task("train/a", "kind", "train", "source")


def make_turn(rng, window, trunk_length, *, branch=5, response=4, valid=True):
    n, m = rng.integers(1, branch + 1), rng.integers(1, response + 1)
    return Turn(
        window=window,
        trunk_length=int(trunk_length),
        branch=rng.integers(1, VOCAB, n).astype(np.int32),
        response=rng.integers(1, VOCAB, m).astype(np.int32),
        logprobs=rng.uniform(-4, -1, m).astype(np.float32),
        version=0,
        observation=f"place {trunk_length % 3}",
        text="",
        action="look",
        valid=valid,
    )


def make_episode(rng, *, group=0, index=0, windows=2, turns=4, reward=None, head=()):
    """Several windows, each with a trunk that grows and a tail that no turn used.

    The first begins with `head`, as that of every episode of a group does.
    """
    trunks, played = [], []
    for window in range(rng.integers(1, windows + 1)):
        steps = rng.integers(0, 5, rng.integers(1, turns + 1))
        same = head if window == 0 else ()
        if len(same):
            steps[0] = len(same)
        lengths = np.cumsum(steps)
        trunk = rng.integers(1, VOCAB, lengths[-1] + rng.integers(0, 3))
        trunk[: len(same)] = same
        trunks.append(trunk.astype(np.int32))
        played += [
            make_turn(rng, window, n, valid=bool(rng.random() < 0.7)) for n in lengths
        ]
    if reward is None:
        reward = float(rng.integers(0, 2))
    played[-1].reward = reward
    return Episode(TASK, group, index, 0, "bank", "", trunks, played, "", reward)


def make_batch(seed, *, groups=3, size=4, **options):
    rng = np.random.default_rng(seed)
    heads = [rng.integers(1, VOCAB, rng.integers(0, 7)) for _ in range(groups)]
    return [
        make_episode(rng, group=g, index=i, head=heads[g], **options)
        for g in range(groups)
        for i in range(size)
    ]


def flat_prompt(episode, turn):
    """What the engine saw."""
    if turn.trunk_length == 0:
        return turn.branch
    return np.concatenate(
        [episode.trunks[turn.window][: turn.trunk_length], turn.branch]
    )


def flatten(episode):
    """The same episode with one row per turn, as the paper's layout has it."""
    turns = [
        Turn(**(vars(t) | {"trunk_length": 0, "branch": flat_prompt(episode, t)}))
        for t in episode.turns
    ]
    return Episode(**(vars(episode) | {"turns": turns, "trunks": []}))


def init_params(seed=0, width=16):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(0, shape[-1] ** -0.5, shape), jnp.float32)

    params = {name: normal(width, width) for name in ("q", "k", "v", "o")}
    return params | {
        "embed": normal(VOCAB, width),
        "position": normal(MAX_POSITIONS, width),
        "out": normal(width, VOCAB),
    }


def next_logprobs(params, tokens, positions, mask):
    """One layer of attention: float32 [R, T, V] from ids, positions and a mask."""
    x = params["embed"][tokens] + params["position"][positions]
    q, k, v = (x @ params[name] for name in ("q", "k", "v"))
    scores = jnp.where(mask, jnp.einsum("rtd,rsd->rts", q, k) / 4, -1e9)
    x = x + jnp.tanh(jax.nn.softmax(scores) @ v @ params["o"])
    return jax.nn.log_softmax(x @ params["out"])


def visible(packed):
    """bool [R, T, S], by the rule that PackedBatch states."""
    slots = np.arange(packed.tokens.shape[1])
    causal = slots[:, None] >= slots
    return causal & (slots[:, None] < packed.visible_end[:, None, :])


def logprob_fn(params, packed):
    """float32 [R, T], log-probs of the targets."""
    mask = visible(packed)
    logprobs = next_logprobs(params, packed.tokens, packed.positions, mask)
    return jnp.take_along_axis(logprobs, packed.targets[..., None], -1)[..., 0]


def make_table(reward, group, valid=None, tokens=None, **parts):
    """Outcomes of three turns each, paid at the end, all at one place."""
    reward = np.asarray(reward, np.float64)
    valid = np.ones((len(reward), 3), bool) if valid is None else np.asarray(valid)
    tokens = np.ones(valid.shape, np.int64) if tokens is None else np.asarray(tokens)
    rewards = np.zeros(valid.shape)
    rewards[:, -1] = reward
    group = np.asarray(group)
    parts = {
        "rewards": rewards,
        "anchor": np.repeat(group[:, None], valid.shape[1], 1),
        "arm_effect": np.zeros(len(reward)),
    } | parts
    return Outcomes(reward, group, valid, tokens, **parts)


def random_table(seed, episodes=12, turns=5, groups=3, places=3):
    """Outcomes of ragged episodes, in groups of any sizes."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, turns + 1, episodes)
    present = np.arange(turns) < lengths[:, None]
    table = Outcomes(
        reward=rng.integers(0, 3, episodes).astype(float),
        group=rng.integers(0, groups, episodes) * 7,
        valid=(rng.random((episodes, turns)) < 0.8) | ~present,
        tokens=rng.integers(1, 9, (episodes, turns)) * present,
        rewards=np.zeros((episodes, turns)),
        anchor=np.zeros((episodes, turns), int),
        arm_effect=rng.integers(-2, 3, episodes) / 10,
    )
    table.rewards[np.arange(episodes), lengths - 1] = table.reward
    place = rng.integers(0, places, (episodes, turns))
    table.anchor[:] = np.where(present, table.group[:, None] * places + place, -1)
    return table


def reorder(table, order):
    """The same episodes in another order."""
    return Outcomes(**{name: values[order] for name, values in vars(table).items()})
