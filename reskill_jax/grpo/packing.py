"""Episodes packed as trees of tokens in rows of static length.

Every window of an episode is one tree: its trunk, and then the branches and responses
that were sampled after prefixes of it, the last turn's first,

    trunk[0:tn]  branch n  response n  ...  branch 2  response 2  branch 1  response 1

A token attends to the trunk before it and to its own branch. Its position is that of
the flat prompt, so losses and gradients equal those of one row per turn, while an
episode costs O(T) tokens instead of O(T^2). In this order the tokens that attend to a
token of the trunk (later ones of the trunk, and all branches that begin after it) are
one contiguous range, so that one integer per token describes the mask; and attention
by blocks can skip most pairs of blocks. A turn without a trunk is its own tree.

The head of a window, its trunk before the first turn, is the same for all episodes of a
group, and for all parts of a tree that had to be cut. Trees in one row share it:

    head  tree 1 without its head  tree 2 without its head  ...
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import jax
import numpy as np

from reskill_jax.rollout.episode import Episode, Turn

Array = np.ndarray | jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch, all arrays [R, T]; numpy until a jitted function takes it.

    Slot i may attend to slot j iff j <= i < visible_end[j].

    Attributes:
        tokens: int32, token ids; 0 in padding.
        positions: int32, positions in the flat prompt.
        visible_end: int32, end (exclusive) of the slots that attend to this one: where
            its tree ends for a slot of the trunk, its branch for one of a branch, and
            the last tree that shares it for one of a head; 0 in padding.
        targets: int32, the response token that this slot predicts; 0 elsewhere.
        mask: float32, 1 where `targets` is a response token.
        sampler_logprobs: float32, the engine's log-probs of `targets`; 0 elsewhere.
        episode: int32, index of the episode in the packed sequence; -1 in padding.
        turn: int32, index of the turn in its episode; -1 for trunk and padding.
    """

    tokens: Array
    positions: Array
    visible_end: Array
    targets: Array
    mask: Array
    sampler_logprobs: Array
    episode: Array
    turn: Array


@dataclass(frozen=True)
class _Tree:
    """One tree.

    Attributes:
        fields: those of `PackedBatch` as [n]; `visible_end` counts from its begin.
        head: what it begins with, equal for trees that may share it.
        shared: slots of the head.
    """

    fields: dict[str, np.ndarray]
    head: bytes
    shared: int

    def __len__(self) -> int:
        return len(self.fields["tokens"])


_DTYPES = {
    field.name: np.float32 if field.name in ("mask", "sampler_logprobs") else np.int32
    for field in fields(PackedBatch)
}
_PADDING = {"episode": -1, "turn": -1}  # 0 for all others


def field_dtypes() -> dict[str, type]:
    """Return the types of the arrays of a `PackedBatch`."""
    return dict(_DTYPES)


def pack(
    episodes: Sequence[Episode],
    *,
    buckets: Sequence[int],
    tokens_per_microbatch: int,
    row_shards: int = 1,
) -> list[PackedBatch]:
    """Pack episodes into micro-batches of static shapes, in a deterministic order.

    A tree that would be longer than the longest bucket is cut between two turns; both
    parts begin with the trunk, which changes no loss. On a CPU short buckets pay: the
    time of attention over a row grows with its square.

    Trees are placed first fit, those of one head together, longest first; rows that
    have the head already come first. A tree that fits no open row opens one of the
    smallest bucket that holds it. Rows of one bucket T make micro-batches [R, T]
    with R = tokens_per_microbatch // T * row_shards; missing rows are padding, never
    copies.

    Args:
        episodes: their order gives the numbers in `PackedBatch.episode`.
        buckets: row lengths in tokens, any order.
        tokens_per_microbatch: slots per micro-batch and shard, padding included.
        row_shards: over how many groups of devices the rows of a micro-batch are split.

    Returns:
        Micro-batches, shortest rows first.

    Raises:
        ValueError: if a single turn is longer than the longest bucket, a micro-batch
            cannot hold one row, or a turn is malformed.
    """
    if not buckets or min(buckets) < 1:
        raise ValueError(f"buckets={tuple(buckets)}: give row lengths above 0")
    if tokens_per_microbatch < max(buckets):
        raise ValueError(
            f"tokens_per_microbatch={tokens_per_microbatch} holds no row of the "
            f"longest bucket: raise it to {max(buckets)} or more, or shorten "
            f"buckets={tuple(buckets)}"
        )
    trees = [
        tree
        for number, episode in enumerate(episodes)
        for tree in _trees(number, episode, max(buckets))
    ]
    rows = _first_fit(trees, sorted(buckets))
    batches = []
    for bucket in sorted(set(buckets)):
        members = [row for size, row in rows if size == bucket]
        count = tokens_per_microbatch // bucket * row_shards
        for start in range(0, len(members), count):
            chosen = [[trees[t] for t in row] for row in members[start : start + count]]
            batches.append(_fill(chosen, (count, bucket)))
    return batches


def targets_only(episodes: Sequence[Episode], first: int) -> PackedBatch:
    """Return the response tokens of episodes in a row, with nothing to predict from.

    For weights that count episodes which are not trained on.

    Args:
        episodes: one or more.
        first: number of the first one in `PackedBatch.episode`.
    """
    lengths = [
        (number, index, len(turn.response))
        for number, episode in enumerate(episodes, first)
        for index, turn in enumerate(episode.turns)
    ]
    owners, turns, counts = np.array(lengths, np.int32).reshape(-1, 3).T
    shape = 1, int(counts.sum())
    arrays = {name: np.zeros(shape, dtype) for name, dtype in _DTYPES.items()}
    arrays["mask"][:] = 1
    arrays["episode"][:] = np.repeat(owners, counts)
    arrays["turn"][:] = np.repeat(turns, counts)
    return PackedBatch(**arrays)


def tree_tokens(episode: Episode) -> int:
    """Count the slots that an episode takes in rows that it shares with no other."""
    trunks: dict[int, int] = {}
    branches = 0
    for turn in episode.turns:
        longest = max(trunks.get(turn.window, 0), turn.trunk_length)
        trunks[turn.window] = longest
        branches += len(turn.branch) + len(turn.response) - 1
    return sum(trunks.values()) + branches


def _trees(number: int, episode: Episode, limit: int) -> Iterator[_Tree]:
    """Yield the trees of one episode, each of at most `limit` slots if a turn fits.

    There is one per window and one per turn without a trunk, and more where the turns
    of a window do not fit into one.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, turn in enumerate(episode.turns):
        _check(episode, index, turn)
        alone = index if turn.trunk_length == 0 else -1
        groups.setdefault((turn.window, alone), []).append(index)
    for (window, alone), indices in groups.items():
        trunk = np.zeros(0, np.int32) if alone >= 0 else episode.trunks[window]
        indices.sort(key=lambda index: episode.turns[index].trunk_length)
        head = trunk[: episode.turns[indices[0]].trunk_length]
        for part in _parts(indices, episode.turns, limit):
            fields = _layout(number, trunk, part, [episode.turns[i] for i in part])
            yield _Tree(fields, head.tobytes(), len(head))


def _parts(
    indices: Sequence[int], turns: Sequence[Turn], limit: int
) -> Iterator[list[int]]:
    """Cut turns, by increasing trunk length, into runs whose trees fit `limit`.

    Runs are filled from the longest trunk on, so that what is left over, and takes a
    copy of its trunk along, has the shortest one.
    """
    part: list[int] = []
    slots = 0
    for index in reversed(indices):
        turn = turns[index]
        branch = len(turn.branch) + len(turn.response) - 1
        if part and slots + branch > limit:
            yield part[::-1]
            part = []
        slots = (slots if part else turn.trunk_length) + branch
        part.append(index)
    yield part[::-1]


def _layout(
    number: int, trunk: np.ndarray, indices: Sequence[int], turns: Sequence[Turn]
) -> dict[str, np.ndarray]:
    """Lay out one tree; `turns` by increasing trunk length, `indices` their numbers.

    The last response token predicts nothing and has no slot. The last branch token
    predicts the first response token.
    """
    indices, turns = indices[::-1], turns[::-1]
    prefixes = [turn.trunk_length for turn in turns]
    stem = trunk[: prefixes[0]]
    branches = [np.concatenate([turn.branch, turn.response[:-1]]) for turn in turns]
    tokens = np.concatenate([stem, *branches])
    lengths = np.array([len(piece) for piece in (stem, *branches)])
    ends = np.cumsum(lengths)
    offsets = np.arange(len(tokens)) - np.repeat(ends - lengths, lengths)
    # Slot p of the trunk is attended to by branches whose prefix is longer than p.
    longer = np.searchsorted(-np.array(prefixes), -np.arange(len(stem)))
    predicting = np.concatenate(
        [
            np.arange(end - len(turn.response), end)
            for turn, end in zip(turns, ends[1:], strict=True)
        ]
    )
    targets, mask, logprobs = np.zeros((3, len(tokens)))
    targets[predicting] = np.concatenate([turn.response for turn in turns])
    logprobs[predicting] = np.concatenate([turn.logprobs for turn in turns])
    mask[predicting] = 1
    return {
        "tokens": tokens,
        "positions": offsets + np.repeat([0, *prefixes], lengths),
        "visible_end": np.append(ends[longer], np.repeat(ends[1:], lengths[1:])),
        "targets": targets,
        "mask": mask,
        "sampler_logprobs": logprobs,
        "episode": np.full(len(tokens), number),
        "turn": np.repeat([-1, *indices], lengths),
    }


def _check(episode: Episode, index: int, turn: Turn) -> None:
    """Raise a ValueError if a turn is malformed."""
    name = f"task {episode.task.id!r}, rollout {episode.index}, turn {index}"
    if len(turn.branch) == 0 or len(turn.response) == 0:
        raise ValueError(
            f"{name}: {len(turn.branch)} branch and {len(turn.response)} response "
            "tokens; both need one at least, or there is nothing to predict"
        )
    if len(turn.logprobs) != len(turn.response):
        raise ValueError(
            f"{name}: {len(turn.logprobs)} log-probs for {len(turn.response)} response "
            "tokens; the engine must return one per sampled token"
        )
    if turn.trunk_length == 0:
        return
    if turn.window >= len(episode.trunks):
        raise ValueError(
            f"{name}: window {turn.window} of {len(episode.trunks)}; every window "
            "that a turn names must be in Episode.trunks"
        )
    if turn.trunk_length > len(episode.trunks[turn.window]):
        raise ValueError(
            f"{name}: prompt holds {turn.trunk_length} trunk tokens but window "
            f"{turn.window} has {len(episode.trunks[turn.window])}"
        )


def _first_fit(
    trees: Sequence[_Tree], buckets: Sequence[int]
) -> list[tuple[int, list[int]]]:
    """Place trees into rows; return (bucket, trees of the row) in order of opening."""
    lengths = [len(tree) for tree in trees]
    if lengths and max(lengths) > buckets[-1]:
        long = sorted((n for n in lengths if n > buckets[-1]), reverse=True)
        raise ValueError(
            f"{len(long)} of {len(lengths)} turns are longer than the longest of "
            f"buckets={tuple(buckets)}: {long[:5]} tokens; add a bucket of "
            f"{long[0]} or more, or lower the prompt's budget"
        )
    longest: dict[bytes, tuple[int, int]] = {}  # per head: a place in the order
    for number, tree in enumerate(trees):
        place = longest.get(tree.head, (0, -number))
        longest[tree.head] = (max(place[0], len(tree)), place[1])
    rows: list[tuple[int, list[int]]] = []
    rows_of: dict[bytes, list[int]] = {}  # rows by head
    free = np.zeros(len(trees), np.int64)  # slots left in each open row

    def order(number: int) -> tuple[tuple[int, int], int, int]:
        return longest[trees[number].head], len(trees[number]), -number

    for number in sorted(range(len(trees)), key=order, reverse=True):
        tree = trees[number]
        with_head = rows_of.setdefault(tree.head, [])
        rest = len(tree) - tree.shared
        row = next((row for row in with_head if free[row] >= rest), -1)
        if row < 0:
            rest = len(tree)
            fits = free[: len(rows)] >= rest
            row = int(np.argmax(fits)) if fits.any() else len(rows)
            with_head.append(row)
        if row == len(rows):
            bucket = next(bucket for bucket in buckets if bucket >= rest)
            rows.append((bucket, []))
            free[row] = bucket
        rows[row][1].append(number)
        free[row] -= rest
    return rows


def _fill(rows: Sequence[Sequence[_Tree]], shape: tuple[int, int]) -> PackedBatch:
    """Write trees into arrays of one static shape; what is left is padding."""
    arrays = {
        name: np.full(shape, _PADDING.get(name, 0), dtype)
        for name, dtype in _DTYPES.items()
    }
    for r, trees in enumerate(rows):
        families: dict[bytes, list[_Tree]] = {}
        for tree in trees:
            families.setdefault(tree.head, []).append(tree)
        start = 0
        for family in families.values():
            first = start
            for tree in family:
                skipped = tree.shared if start > first else 0
                slots = np.s_[r, start : start + len(tree) - skipped]
                for name, values in tree.fields.items():
                    arrays[name][slots] = values[skipped:]
                arrays["visible_end"][slots] += start - skipped
                start += len(tree) - skipped
            arrays["visible_end"][r, first : first + family[0].shared] = start
    return PackedBatch(**arrays)
