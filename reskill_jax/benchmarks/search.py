"""Measures Search QA: what a retriever finds, and how fast episodes are played.

    python -m reskill_jax.benchmarks.search \
        --questions=questions.jsonl --passages=passages.jsonl.gz [--retriever=dense]

*Found* is the recall of one search with the raw question: any or all of the supporting
passages, or the answer as a string, among the first three. The *oracle* plays episodes:
it searches for the title of each supporting passage, then answers right if the results
hold the answer (or if it is yes or no), else wrong: what the retriever allows.

Then 200 episodes at a time are played by the real collector, against a retriever that
answers after 200 ms and an engine that answers at once. Ideal is a rate at which only
the retriever takes time. The file of passages is not needed for that.
"""

import argparse
import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from statistics import mean
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from reskill_jax.benchmarks import reporting
from reskill_jax.environments.remote import RemotePlayers
from reskill_jax.environments.search.client import Found, RetrieverClient
from reskill_jax.environments.search.environment import SearchEnvironment
from reskill_jax.environments.search.files import (
    Passage,
    Question,
    read_passages,
    read_questions,
)
from reskill_jax.environments.search.panels import panel
from reskill_jax.environments.search.scoring import normalise
from reskill_jax.environments.search.server import running
from reskill_jax.environments.search.settings import LOCAL, SAMPLE
from reskill_jax.environments.search.spec import ACTION_FORMAT
from reskill_jax.environments.search.wordings import FULL
from reskill_jax.environments.task import Task
from reskill_jax.policy.random_policy import random_policy
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.process import tune_memory
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.context import EmptyContext
from reskill_jax.rollout.engine import Completion, Request, Sampling
from reskill_jax.rollout.prompts import PromptBuilder

TOP_K = 3
IN_FLIGHT = 200
LATENCY_S = 0.2
SEARCHES = 3  # per episode
TARGET = 0.9  # of the ideal rate
_TOGETHER = 64  # questions that recall and oracle ask at a time
_T = TypeVar("_T")
Figures = dict[str, float]


def holds(passages: Iterable[Found], answers: Iterable[str]) -> bool:
    """Tell whether the text of any passage holds any of the answers, normalised."""
    text = f" {normalise(' '.join(found.contents for found in passages))} "
    return any(normalise(answer) in text for answer in answers)


async def recall(client: RetrieverClient, question: Question) -> Figures:
    """Search once with the raw question."""
    found = await client.search(question.question, TOP_K)
    figures = {"answer found": float(holds(found, question.answers))}
    if gold := set(question.supporting_passage_ids):
        ids = {one.id for one in found}
        figures |= {
            "any found": float(bool(gold & ids)),
            "all found": float(gold <= ids),
        }
    return figures


async def oracle(
    client: RetrieverClient, titles: dict[str, str], question: Question
) -> Figures:
    """Play an episode that knows which titles to search for."""
    gold = dict.fromkeys(question.supporting_passage_ids)
    if not gold:
        return {}
    seen: list[Found] = []

    async def search(query: str) -> Sequence[Found]:
        found = await client.search(query, TOP_K)
        seen.extend(found)
        return found

    environment = SearchEnvironment(search)
    source = {"question": question.question, "answers": question.answers}
    await environment.reset(Task(question.id, question.dataset, "", json.dumps(source)))
    for title in dict.fromkeys(titles[name] for name in gold):
        await environment.step(f"search[{title}]")
    known = {"yes", "no"} & set(map(normalise, question.answers))
    answer = question.answers[0] if known or holds(seen, question.answers) else "?"
    last = await environment.step(f"answer[{answer}]")
    ids = {found.id for found in seen}
    return {
        "oracle EM": float(last.success),
        "oracle all found": float(gold.keys() <= ids),
        "oracle searches": last.scores["searches"],
    }


def per_set(
    questions: Sequence[Question],
    ask: Callable[[Question], Coroutine[Any, Any, Figures]],
) -> dict[str, Figures]:
    """Average figures over the questions of each set that have them."""
    gate = asyncio.Semaphore(_TOGETHER)
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    async def one(question: Question, progress: Any) -> None:
        async with gate:
            for name, value in (await ask(question)).items():
                values[question.dataset][name].append(value)
        progress.update()

    async def main() -> None:
        with tqdm(total=len(questions), unit="question", leave=False) as progress:
            async with asyncio.TaskGroup() as group:
                for question in questions:
                    group.create_task(one(question, progress))

    asyncio.run(main())
    return {
        name: {figure: mean(of) for figure, of in figures.items()}
        for name, figures in values.items()
    }


class _Scripted:
    """An engine that answers at once: searches, then an answer."""

    batch_invariant = True

    def __init__(self, tokenizer: Tokenizer, queries: Sequence[str]):
        self._turns: Counter[str] = Counter()
        texts = [f"<search>{query}</search>" for query in queries]
        self._searches = [np.array(tokenizer.encode(text), np.int32) for text in texts]
        self._answer = np.array(tokenizer.encode("<answer>?</answer>"), np.int32)

    async def generate(self, request: Request) -> Completion:
        turn = self._turns[request.session]
        self._turns[request.session] += 1
        place = request.seed % len(self._searches)
        tokens = self._searches[place] if turn < SEARCHES else self._answer
        return Completion(tokens, np.zeros(len(tokens), np.float32), 0, True)

    def release(self, session: str) -> None:
        del self._turns[session]

    def push(self, params: Any, version: int) -> None:
        """Do nothing: there are no weights."""

    def sleep(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def rate(rounds: int, *, in_flight: int, latency_s: float) -> tuple[float, float]:
    """Play episodes; return their rate, as a part of the ideal one, and CPU ms of each.

    Args:
        rounds: times `in_flight` episodes are played.
        in_flight: of them at a time.
        latency_s: seconds that the retriever takes to answer.
    """
    tokenizer = Tokenizer.load(random_policy("tiny", 0))
    queries = [passage.contents.split("\n")[0] for passage in read_passages(SAMPLE)]
    tasks = panel(partial(read_questions, SAMPLE), "train", None).tasks
    with running("bm25", SAMPLE, latency_s=latency_s) as url:
        search = partial(RetrieverClient(url).search, top_k=TOP_K)
        collector = Collector(
            engine=_Scripted(tokenizer, queries),
            players=RemotePlayers(partial(SearchEnvironment, search), timeout_s=60.0),
            prompts=PromptBuilder(
                tokenizer,
                wording=FULL,
                layout="tree",
                max_tokens=4096,
                max_turns=SEARCHES + 1,
            ),
            action_format=ACTION_FORMAT,
            max_turns=SEARCHES + 1,
            concurrency=in_flight,
        )
        episodes = rounds * in_flight
        arms = np.zeros((len(tasks), -(-episodes // len(tasks))), np.int32)
        arms.reshape(-1)[episodes:] = -1
        started, cpu_before = time.perf_counter(), time.process_time()
        played = asyncio.run(
            collector.collect(
                tasks, arms, (EmptyContext(),), sampling=Sampling(), seed=0
            )
        )
        seconds = time.perf_counter() - started
        cpu_s = time.process_time() - cpu_before
    if any(episode.scores["searches"] != SEARCHES for episode in played):
        raise RuntimeError("episodes did not search as they were told")
    ideal = episodes * SEARCHES * latency_s / in_flight
    return ideal / seconds, 1000 * cpu_s / episodes


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", default=SAMPLE, help="JSON lines; or sample")
    parser.add_argument("--passages", default=SAMPLE, help="JSON lines; or sample")
    parser.add_argument(
        "--retriever", default="bm25", help="bm25, dense, or an address"
    )
    parser.add_argument("--encoder", default="", help="directory, for dense")
    parser.add_argument("--rounds", type=int, default=10, help="of 200 episodes")
    parser.add_argument("--limit", type=int, help="questions of each set")
    flags = parser.parse_args()

    tune_memory()  # as in a run
    figures: dict[str, float] = {}
    for name, of_set in found_per_set(flags).items():
        figures |= {f"{name}, {figure}": value for figure, value in of_set.items()}
    rows = []
    for rounds in sorted({1, flags.rounds}):
        part, cpu_ms = rate(rounds, in_flight=IN_FLIGHT, latency_s=LATENCY_S)
        rows.append((rounds * IN_FLIGHT, part, cpu_ms))
        figures[f"{rounds * IN_FLIGHT} episodes, part of the ideal rate"] = part
        figures[f"{rounds * IN_FLIGHT} episodes, trainer's CPU ms each"] = cpu_ms
    header = (f"episodes, {IN_FLIGHT} at a time", "of the ideal rate", "CPU ms each")
    print("\n" + reporting.format_table(header, rows))
    bars = {f"{IN_FLIGHT} at a time, of the ideal rate": reporting.Bar(part, TARGET)}
    reporting.report("search", figures, bars)


def found_per_set(flags: argparse.Namespace) -> dict[str, Figures]:
    """Measure recall and oracle, and print them."""
    questions, taken = [], Counter[str]()
    for question in read_questions(flags.questions):
        taken[question.dataset] += 1
        if flags.limit is None or taken[question.dataset] <= flags.limit:
            questions.append(question)
    titles = {passage.id: _title(passage) for passage in read_passages(flags.passages)}
    if flags.retriever in LOCAL:
        with running(flags.retriever, flags.passages, flags.encoder) as url:
            found = _measure(questions, titles, url)
    else:
        found = _measure(questions, titles, flags.retriever)
    header = ("set", "questions", *next(iter(found.values())))
    counts = Counter(question.dataset for question in questions)
    rows: list[tuple[str | float, ...]] = [
        (name, counts[name], *of.values()) for name, of in found.items()
    ]
    print(reporting.format_table(header, rows))
    return found


def _measure(
    questions: Sequence[Question], titles: dict[str, str], url: str
) -> dict[str, Figures]:
    client = RetrieverClient(url)
    found = per_set(questions, partial(recall, client))
    played = per_set(questions, partial(oracle, client, titles))
    return {name: of_set | played.get(name, {}) for name, of_set in found.items()}


def _title(passage: Passage) -> str:
    return passage.title or passage.contents.split("\n")[0].strip('"')


if __name__ == "__main__":
    main()
