"""What episodes as trees save: one row per episode against one row per turn.

    python -m reskill_jax.benchmarks.trees [--root=DIR] [--games=12]

plays published ALFWorld games ($ALFWORLD_DATA, or --root) with the expert, which wins,
and with random commands for 50 turns, which fails. Prompts are those of the published
setting: full wording, admissible commands, skills, 4,096 tokens. Then it compares

- tokens and FLOPs of an update, counted, of episodes packed as trees (`grpo.packing`)
  and of the same episodes as one row per turn, as other systems train;
- seconds and memory of an update of a small decoder on both, in processes that take
  turns;
- tokens that the engine prefills and seconds per turn, with and without the prefixes
  that it keeps.

The tokenizer is learnt from the games' texts, with 8,192 ids.
"""

import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.codec import decode, encode
from reskill_jax.command_line import start
from reskill_jax.environments.alfworld.environment import (
    AlfworldEnvironment,
    find_games,
)
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.environments.alfworld.wordings import FULL
from reskill_jax.environments.protocol import Observation, Task
from reskill_jax.grpo.optimizer import init_state, make_optimizer
from reskill_jax.grpo.packing import pack
from reskill_jax.grpo.scoring import make_logprobs
from reskill_jax.grpo.supervised import make_supervised_update
from reskill_jax.policy.decoder import init
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.tokenizer import Tokenizer, train_tokenizer
from reskill_jax.rollout.context import StaticGuide
from reskill_jax.rollout.conversation import Conversation
from reskill_jax.rollout.engine import Request, Sampling
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.rollout.jax.engine import JaxEngine
from reskill_jax.rollout.prompts import PromptBuilder, render_note
from reskill_jax.skills.skill import SkillBank
from reskill_jax.terminal import activity

_ROOT = flags.DEFINE_string("root", "", "Holds json_2.1.1/; empty: $ALFWORLD_DATA.")
_GAMES = flags.DEFINE_integer("games", 12, "Games, each played in both ways.")
_TIMED = flags.DEFINE_integer("timed", 2, "Episodes of each kind that are timed.")
_CHILD = flags.DEFINE_string("child", "", "Internal: what this process times.")

MAX_TURNS = 50
MAX_PROMPT = 4096
BUCKETS = (1024, 2048, 4096, 8192, 16384)  # of the published setting
TIMED_BUCKETS = (1024, 2048, 4096, 8192)
# Qwen3-4B: hidden, feed-forward, layers, heads, key-value heads, head width.
LARGE = (2560, 9728, 36, 32, 8, 128)
BANK = SkillBank(tuple(rule.skill() for rule in HELPFUL[:6]))
_RESPONSE = (
    "What I need is not in my hands yet, and this is the best next thing to try. "
    "<action>{action}</action>"
)


def main() -> None:
    """Count, then time."""
    if _CHILD.value:
        what, _, folder = _CHILD.value.partition(":")
        print(json.dumps(_TIMES[what](Path(folder))))
        return
    with activity("playing games"):
        tokenizer, games = play_games()
    failures = [episode for episode in games if not episode.success]
    failures = [e for e in failures if len(e.turns) == MAX_TURNS]
    wins = [episode for episode in games if episode.success]
    even = min(len(wins), len(failures))
    kinds = {
        f"{MAX_TURNS}-turn failures": failures,
        "wins": wins,
        "half and half": wins[:even] + failures[:even],
    }
    rows: list[list[str | float]] = []
    figures: dict[str, float] = {}
    for name, episodes in kinds.items():
        flat, tree = (
            cost(found, BUCKETS) for found in (list(map(as_flat, episodes)), episodes)
        )
        turns = float(np.mean([len(e.turns) for e in episodes]))
        ratios = tree[0] / flat[0], tree[1] / flat[1]
        per_episode = (flat[0] / len(episodes), tree[0] / len(episodes))
        rows.append([name, len(episodes), turns, *per_episode, *ratios])
        figures |= {
            f"{name}/tokens": float(ratios[0]),
            f"{name}/flops": float(ratios[1]),
        }
    header = ["episodes", "number", "turns", "tokens flat", "tree", "ratio", "FLOPs"]
    print(format_table(header, rows))
    bars = {
        "tokens, failures": Bar(
            figures[f"{MAX_TURNS}-turn failures/tokens"], 0.25, True
        ),
        "tokens, half and half": Bar(figures["half and half/tokens"], 0.35, True),
    }
    chosen = wins[: _TIMED.value] + failures[: _TIMED.value]
    with activity("timing in processes of their own"):
        timed = time_children(tokenizer, chosen)
    rows = []
    for what, unit in (
        ("update", "seconds"),
        ("update", "MiB"),
        ("rollout", "prefilled tokens"),
        ("rollout", "ms per turn"),
    ):
        pair = [timed[f"{what} {rows_are}"][unit] for rows_are in ("flat", "tree")]
        rows.append([f"{what}, {unit}", *pair])
        figures |= {f"{what}, {unit}, flat": pair[0], f"{what}, {unit}, tree": pair[1]}
    print(format_table(["on this machine", "flat", "tree"], rows))
    faster = timed["update flat"]["seconds"] / timed["update tree"]["seconds"]
    bars["update, times as fast"] = Bar(faster, 2.5)
    report("trees", figures, bars)


def play_games() -> tuple[Tokenizer, list[Episode]]:
    """Play every game with the expert and at random; the prompts are recorded."""
    tasks = find_games(_ROOT.value or None, "valid_seen")
    tasks = random.Random(0).sample(tasks, _GAMES.value)
    environment = AlfworldEnvironment()
    plays = [
        play(environment, task, expert) for task in tasks for expert in (True, False)
    ]
    texts = [text for play in plays for text in play[1]]
    fixed = [*asdict(FULL).values(), *(render_note(FULL, s) for s in BANK.skills)]
    # Often enough that their words become tokens, as they are for a large model.
    tokenizer = train_tokenizer(texts + 50 * [*fixed, _RESPONSE], 8192)
    prompts = PromptBuilder(
        tokenizer,
        wording=FULL,
        layout="tree",
        max_tokens=MAX_PROMPT,
        max_turns=MAX_TURNS,
    )
    return tokenizer, [record(prompts, *play) for play in plays]


Play = tuple[Task, list[str], list[tuple[str, ...]], list[str], bool]


def play(environment: AlfworldEnvironment, task: Task, expert: bool) -> Play:
    """Play one game to its end or for 50 turns.

    Returns:
        The task; goal and observations; admissible commands and action of every turn;
        whether the game was won.
    """
    from reskill_jax.environments.alfworld.expert import Expert  # noqa: PLC0415

    rng = random.Random(task.id)
    goal, now = environment.reset(task)
    advisor = Expert()
    advisor.reset(task, now)
    texts = [goal, now.text]
    admissible: list[tuple[str, ...]] = []
    actions: list[str] = []
    while not now.done and len(actions) < MAX_TURNS:
        chosen = advisor.propose() if expert else rng.choice(now.choices)
        admissible.append(now.choices)
        actions.append(chosen or "look")
        now = environment.step(actions[-1])
        advisor.observe(now)
        texts.append(now.text)
    return task, texts, admissible, actions, now.success


def record(
    prompts: PromptBuilder,
    task: Task,
    texts: Sequence[str],
    admissible: Sequence[tuple[str, ...]],
    actions: Sequence[str],
    success: bool,
) -> Episode:
    """Render a play as the collector would have recorded it."""
    goal, first, *after = texts
    episode = Episode(task, 0, 0, 0, BANK.hash, goal=goal, success=success)
    guide = StaticGuide(bank=BANK)
    talk = Conversation(prompts, goal, Observation(first, admissible[0]), guide)
    previous = None
    for commands, action, observation in zip(admissible, actions, after, strict=True):
        prompt = talk.prompt(Observation("", commands), BANK.active(previous))
        text = _RESPONSE.format(action=action)
        response = [*prompts.tokenizer.encode(text), prompts.tokenizer.eos_id]
        episode.turns.append(
            Turn(
                window=prompt.window,
                trunk_length=prompt.trunk_length,
                branch=np.asarray(prompt.branch, np.int32),
                response=np.asarray(response, np.int32),
                logprobs=np.zeros(len(response), np.float32),
                version=0,
                observation="",
                text=text,
                action=action,
                valid=True,
            )
        )
        talk.advance(action, observation)
        previous = action
    episode.trunks = [np.asarray(trunk, np.int32) for trunk in talk.trunks]
    return episode


def flat_prompt(episode: Episode, turn: Turn) -> np.ndarray:
    """Return the whole prompt of a turn."""
    trunk = episode.trunks[turn.window][: turn.trunk_length]
    return np.concatenate([trunk, turn.branch])


def as_flat(episode: Episode) -> Episode:
    """Return the episode with a row of its own for every turn."""
    turns = [
        replace(turn, window=0, trunk_length=0, branch=flat_prompt(episode, turn))
        for turn in episode.turns
    ]
    return replace(episode, turns=turns, trunks=[])


def cost(episodes: Sequence[Episode], buckets: Sequence[int]) -> tuple[float, float]:
    """Count tokens, and FLOPs of a Qwen3-4B's forward pass, padding left out.

    A token at position p of its prompt attends to p + 1 tokens, itself among them.
    """
    hidden, feed_forward, layers, heads, kv_heads, width = LARGE
    matrices = hidden * (2 * width * (heads + kv_heads) + 3 * feed_forward)
    tokens = pairs = 0.0
    for packed in pack(episodes, buckets=buckets, tokens_per_microbatch=max(buckets)):
        real = np.asarray(packed.visible_end) > 0
        tokens += real.sum()
        pairs += (np.asarray(packed.positions)[real] + 1.0).sum()
    return tokens, 2.0 * layers * (tokens * matrices + 2 * pairs * heads * width)


def time_children(
    tokenizer: Tokenizer, episodes: Sequence[Episode]
) -> dict[str, dict[str, float]]:
    """Time updates and rollouts, each in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save(folder)
        write(folder / "episodes.json", episodes)
        return {what: _run_child(f"{what}:{folder}") for what in _TIMES}


def _run_child(child: str) -> dict[str, float]:
    command = [sys.executable, "-m", "reskill_jax.benchmarks.trees", f"--child={child}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def write(path: Path, episodes: Sequence[Episode]) -> None:
    """Store episodes."""
    path.write_text(json.dumps(encode(episodes)))


def read(path: Path) -> Iterator[Episode]:
    """Yield what `write` stored, each as a group of its own."""
    episodes = decode(list[Episode], json.loads(path.read_text()))
    for number, episode in enumerate(episodes):
        yield replace(episode, group=number)


def small_decoder(vocab_size: int) -> DecoderConfig:
    """Return a decoder of the laboratory's size."""
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=160,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        rope_theta=1e6,
        max_position_embeddings=MAX_PROMPT + 512,
    )


def time_update(folder: Path, *, flat: bool) -> dict[str, float]:
    """Time one update, after one that compiles; return seconds and peak memory."""
    episodes = list(read(folder / "episodes.json"))
    if flat:
        episodes = list(map(as_flat, episodes))
    decoder = small_decoder(Tokenizer.load(folder).vocab_size)
    tx = make_optimizer(1e-4)
    update = make_supervised_update(make_logprobs(decoder), tx)
    state = init_state(init(decoder, jax.random.key(0)), tx)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        batches = pack(episodes, buckets=TIMED_BUCKETS, tokens_per_microbatch=8192)
        state, _ = update(state, batches)
        best = min(best, time.perf_counter() - started)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": best, "MiB": memory}


def time_rollout(folder: Path, *, flat: bool) -> dict[str, float]:
    """Ask an engine for all recorded turns, several episodes at once.

    Without trees every prompt begins with a token of its own, so that no prefix is
    found again. Responses have the recorded lengths.
    """
    episodes = list(read(folder / "episodes.json"))
    decoder = small_decoder(Tokenizer.load(folder).vocab_size)
    context = -(-(MAX_PROMPT + 512) // 128) * 128
    engine = JaxEngine(
        decoder,
        init(decoder, jax.random.key(0)),
        eos_ids=(),
        max_sequences=8,
        context=context,
        block_size=128,
        prefill_rows=8,
        decode_rows=8,
    )

    async def play_again(number: int, episode: Episode) -> None:
        for index, turn in enumerate(episode.turns):
            prompt = flat_prompt(episode, turn).tolist()
            if flat:
                prompt[0] = (number * MAX_TURNS + index) % decoder.vocab_size
            sampling = Sampling(1.0, 1.0, len(turn.response))
            await engine.generate(Request(str(number), prompt, sampling, index))

    async def play_all() -> None:
        await asyncio.gather(*(play_again(i, e) for i, e in enumerate(episodes)))

    warm = replace(episodes[0], turns=episodes[0].turns[:2])
    asyncio.run(play_again(0, warm))
    engine.counters.clear()
    started = time.perf_counter()
    asyncio.run(play_all())
    seconds = time.perf_counter() - started
    engine.close()
    turns = sum(len(episode.turns) for episode in episodes)
    return {
        "prefilled tokens": float(engine.counters["prefilled"]),
        "ms per turn": 1e3 * seconds / turns,
    }


_TIMES: dict[str, Any] = {
    "update flat": lambda folder: time_update(folder, flat=True),
    "update tree": lambda folder: time_update(folder, flat=False),
    "rollout flat": lambda folder: time_rollout(folder, flat=True),
    "rollout tree": lambda folder: time_rollout(folder, flat=False),
}

if __name__ == "__main__":
    start(main)
