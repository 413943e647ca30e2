"""How fast do the engines play, next to transformers' `generate` on torch?

    pip install '.[parity,vllm]'
    python -m reskill_jax.benchmarks.engines --vllm=PATH/TO/bin/vllm

lets all of them answer the same requests with the same small Qwen3 in float32: several
groups of episodes at once, whose prompts grow as trunks with branches, with responses
of one length, so that the work is equal. Tokens are random, so no data is needed.

Our engines are asked as the collector asks: every episode goes on as soon as it has its
answer, and what its prompt shares with earlier ones is found in their caches.
`generate` gets the prompts of one turn of all episodes in a batch, padded on the left,
and keeps keys and values within a call; it knows no earlier calls.

The engines take turns, each time with new prompts, after one play that is not timed;
the best play counts. What is not installed is named and skipped.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from absl import flags, logging

from reskill_jax.benchmarks.players import (
    OnEngine,
    OnTransformers,
    Play,
    difference,
    scores,
)
from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.timing import in_turn
from reskill_jax.command_line import start
from reskill_jax.laboratory.recipe import Shape
from reskill_jax.policy.decoder import Params, init
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.policy.weights import load, save
from reskill_jax.rollout.engine import Engine
from reskill_jax.rollout.jax.engine import JaxEngine
from reskill_jax.rollout.vllm.server import Server, ServerOptions
from reskill_jax.terminal import activity

_VLLM = flags.DEFINE_string("vllm", "", "bin/vllm of an environment; empty: skipped.")
_GROUPS = flags.DEFINE_integer("groups", 2, "Groups, whose episodes share a head.")
_ROLLOUTS = flags.DEFINE_integer("rollouts", 8, "Episodes of a group.")
_TURNS = flags.DEFINE_integer("turns", 15, "Turns of an episode.")
_PLAYS = flags.DEFINE_integer("plays", 4, "Timed ones, of which the best counts.")
_VLLM_ARGUMENTS = flags.DEFINE_list(
    "vllm_arguments", ["--enforce-eager", "--block-size=32"], "Of vllm serve."
)
_PREFILL_CHUNK = flags.DEFINE_integer("block_size", 32, "Of the JAX engine.")
_PREFILL_ROWS = flags.DEFINE_integer("prefill_rows", 16, "Of the JAX engine.")
_DECODE_ROWS = flags.DEFINE_integer("decode_rows", 16, "Of the JAX engine.")
_DECODE_STEPS = flags.DEFINE_integer("decode_steps", 4, "Of the JAX engine.")
JAX, TORCH = "JAX engine", "transformers"
SLOTS = 64  # sequences of full length that a cache has room for
TOLERANCE = 1e-4  # nats per token, between any two of them


@dataclass(frozen=True)
class Work:
    """What is played; lengths are in tokens.

    Attributes:
        groups: that are played at once.
        rollouts: episodes of a group.
        turns: of an episode.
        head: of a group's trunks, with the first observation.
        step: by which a turn lengthens the trunk, at least and at most.
        branch: the rest of a prompt, which is dropped afterwards, likewise.
        response: of every turn.
    """

    groups: int = 2
    rollouts: int = 8
    turns: int = 15
    head: int = 300
    step: tuple[int, int] = (20, 40)
    branch: tuple[int, int] = (60, 100)
    response: int = 16

    @property
    def context(self) -> int:
        """The longest prompt and response."""
        return (
            self.head + (self.turns - 1) * self.step[1] + self.branch[1] + self.response
        )

    @property
    def responses(self) -> int:
        """How many a play has."""
        return self.groups * self.rollouts * self.turns


def main() -> None:
    """Let all of them play, in turn."""
    logging.set_verbosity(logging.WARNING)  # httpx logs every request
    work = Work(_GROUPS.value, _ROLLOUTS.value, _TURNS.value)
    with ExitStack() as resources:
        directory = Path(resources.enter_context(tempfile.TemporaryDirectory()))
        config, params = write_model(directory / "model")
        plays = [prompts(work, config.vocab_size, i) for i in range(1 + _PLAYS.value)]
        players = make_players(work, directory, resources)
        first = [episode[0] for episode in plays[0]]
        for name, player in players.items():
            with activity(f"the first answers of {name}"):
                off = difference(config, params, first, player.answer(first))
            print(f"{name}: log-probs within {off:.1e} of the decoder's")
            if not off <= TOLERANCE:
                raise RuntimeError(f"{name} does not compute the same policy")
        before = {name: player.prefilled() for name, player in players.items()}
        steps = [one_by_one(player.play, plays) for player in players.values()]
        times = in_turn(steps, _PLAYS.value)
        lengths = [len(p) for play in plays for episode in play for p in episode]
        given = sum(lengths) / len(plays)
        prefilled = {
            name: (player.prefilled() - before[name]) / len(plays)
            for name, player in players.items()
        }
    rows: list[list[str | float]] = []
    figures: dict[str, float] = {"prompt tokens": given}
    for name, seconds in zip(players, times, strict=True):
        found = {
            "tokens per second": work.responses * work.response / seconds,
            "seconds per turn of all": seconds / work.turns,
            "ms per turn": 1e3 * seconds / work.responses,
            "prompt tokens prefilled": prefilled[name],
            "reused": 1 - prefilled[name] / given,
        }
        rows.append([name, *found.values()])
        figures |= {f"{name}/{key}": value for key, value in found.items()}
    print(f"{work}: {given:,.0f} prompt tokens")
    print(format_table(["engine", *found], rows))
    bars = {}
    if TORCH in players:
        ratio = (
            figures[f"{JAX}/tokens per second"] / figures[f"{TORCH}/tokens per second"]
        )
        bars["speed over transformers"] = Bar(ratio, 2.0)
    report("engines", figures, bars)


def make_players(
    work: Work, directory: Path, resources: ExitStack
) -> dict[str, OnEngine | OnTransformers]:
    """Let all that are installed here load the model; the others are named.

    Args:
        work: that they will have.
        directory: holds the model, as `model`, and gets what servers need.
        resources: keeps what has to be closed.
    """
    model = directory / "model"
    config, params = load(model)
    chunk = _PREFILL_CHUNK.value
    context = -(-work.context // chunk) * chunk
    engine = JaxEngine(
        config,
        params,
        eos_ids=(),
        max_sequences=SLOTS,
        context=context,
        block_size=chunk,
        prefill_rows=_PREFILL_ROWS.value,
        decode_rows=_DECODE_ROWS.value,
        decode_steps=_DECODE_STEPS.value,
    )
    resources.callback(engine.close)
    players: dict[str, OnEngine | OnTransformers] = {
        JAX: OnEngine(engine, work.response, lambda: engine.counters["prefilled"])
    }
    if shutil.which(_VLLM.value) is None:
        print(f"vLLM: skipped, --vllm={_VLLM.value!r} is no executable")
    elif importlib.util.find_spec("httpx") is None:
        print("vLLM: skipped, it needs httpx: pip install '.[vllm]'")
    else:
        with activity("starting vLLM"):
            server, served = start_vllm(config, params, context, directory, resources)
        players["vLLM"] = OnEngine(
            served, work.response, lambda: not_found(metrics_of(server.url))
        )
    if importlib.util.find_spec("torch"):
        players[TORCH] = OnTransformers(model, work.response)
    else:
        print("transformers: skipped, it needs torch: pip install '.[parity]'")
    return players


def start_vllm(
    config: DecoderConfig,
    params: Params,
    context: int,
    directory: Path,
    resources: ExitStack,
) -> tuple[Server, Engine]:
    """Start a vLLM server on this machine's cores, with as much room as our engine."""
    from reskill_jax.rollout.vllm.engine import VllmEngine  # noqa: PLC0415
    from reskill_jax.rollout.vllm.files_transfer import FilesTransfer  # noqa: PLC0415

    token = 2 * config.num_hidden_layers * config.num_key_value_heads
    token *= config.head_dim * np.dtype(config.dtype).itemsize
    how = ServerOptions(
        executable=_VLLM.value,
        model=directory / "model",
        dtype=config.dtype,
        max_length=context,
        gpu_memory_utilization=0,
        arguments=(
            f"--kv-cache-memory-bytes={SLOTS * context * token}",
            *_VLLM_ARGUMENTS.value,
        ),
        environment={
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": f"{os.cpu_count()}",
        },
    )
    server = Server(how, directory / "server")
    resources.callback(server.stop)
    engine = VllmEngine(
        config,
        params,
        servers=[server],
        transfer=FilesTransfer(config, Path("/dev/shm") / f"reskill-{directory.name}"),
        eos_ids=(),
        score=lambda params, text: scores(config, params, [text])[0],
        logprob_tolerance=TOLERANCE,
    )
    resources.callback(engine.close)
    return server, engine


def write_model(directory: Path) -> tuple[DecoderConfig, Params]:
    """Write a random model of the laboratory's size, with a tokenizer for vLLM."""
    config = Shape().decoder(1024)
    params = init(config, jax.random.key(0))
    save(directory, config, params)
    train_tokenizer(["go to cabinet 1"], 300).save(directory)
    return config, params


def metrics_of(url: str) -> str:
    """Read the metrics of one of our servers."""
    import httpx  # noqa: PLC0415

    transport = httpx.HTTPTransport(uds=url.removeprefix("unix:"))
    with httpx.Client(transport=transport) as client:
        return client.get("http://vllm/metrics").raise_for_status().text


def not_found(metrics: str) -> float:
    """Return how many tokens of prompts missed the prefix cache."""
    found = {
        line.split("{")[0]: float(line.split()[-1])
        for line in metrics.splitlines()
        if line.startswith("vllm:prefix_cache_")
    }
    queries, hits = (f"vllm:prefix_cache_{name}_total" for name in ("queries", "hits"))
    return found[queries] - found[hits]


def one_by_one(
    play: Callable[[Play], None], plays: Sequence[Play]
) -> Callable[[], None]:
    """Return what plays the next one at every call."""
    rest = iter(plays)
    return lambda: play(next(rest))


def prompts(work: Work, vocab: int, seed: int) -> Play:
    """Draw the prompts of all episodes, group by group."""
    rng = np.random.default_rng(seed)

    def draw(lengths: tuple[int, int]) -> list[int]:
        length = rng.integers(lengths[0], lengths[1] + 1)
        return rng.integers(0, vocab, length).tolist()

    def episode(head: list[int]) -> list[list[int]]:
        trunk, found = head, []
        for _ in range(work.turns):
            found.append(trunk + draw(work.branch))
            trunk = trunk + draw(work.step)
        return found

    heads = [draw((work.head, work.head)) for _ in range(work.groups)]
    return [episode(head) for head in heads for _ in range(work.rollouts)]


if __name__ == "__main__":
    start(main)
