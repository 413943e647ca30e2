"""Writing that waits for a language model, beside training.

Jobs are done one after the other, in the order in which they were handed in. With a
language model that happens in a thread, and a result is taken at the first step at
which it is ready or, for runs that can be repeated, exactly so many steps after the job
was handed in. Without one a job is done at once.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from absl import logging

from reskill_jax.codec import decode
from reskill_jax.memories.writer import Writer

Work = Callable[[Writer, Any], Any]  # from a job to its result, both JSON documents


class _Handed(TypedDict):
    step: int
    job: Any


class _State(TypedDict):
    writer: dict[str, Any]
    jobs: list[_Handed]


@dataclass
class _Job:
    step: int
    job: Any
    before: dict[str, Any] | None = None  # the writer's state when it was begun
    result: Any = None
    error: Exception | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)


class Desk:
    """Hands jobs to a writer and takes what it has written.

    Args:
        writer: writes.
        work: does a job with it.
        background: whether jobs are done in a thread.
        delay_steps: see the module; 0: as soon as a job is done.
        wait: take each job at once, however long it takes: for methods that have
            nothing else to do meanwhile.
    """

    def __init__(
        self,
        writer: Writer,
        work: Work,
        *,
        background: bool = False,
        delay_steps: int = 0,
        wait: bool = False,
    ):
        self._writer = writer
        self._work = work
        self._background = background
        self._delay_steps = 0 if wait else delay_steps
        self._wait = wait or delay_steps > 0
        self._jobs: list[_Job] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._news: dict[str, float] = {}

    def submit(self, step: int, job: Any) -> None:
        """Hand in a job, a JSON document."""
        with self._lock:
            self._jobs.append(_Job(step, job))
        self._go_on()

    def take(self, step: int) -> list[tuple[Any, Any]]:
        """Return jobs with their results, once, as far as they are due.

        A job that failed has none: its error is logged and counted.

        Args:
            step: the present one.
        """
        self._go_on()  # those of a restart
        taken: list[tuple[Any, Any]] = []
        while self._jobs:
            job = self._jobs[0]
            if step < job.step + self._delay_steps:
                break
            if self._wait:
                job.done.wait()
            if not job.done.is_set():
                break
            with self._lock:
                self._jobs.pop(0)
            for key, value in job.metrics.items():
                self._count(key, value)
            if job.error is not None:
                logging.error("the writer failed", exc_info=job.error)
                self._count("writer/errors/internal")
            else:
                taken.append((job.job, job.result))
        return taken

    @property
    def idle(self) -> bool:
        """Whether nothing is being written or waits to be taken."""
        return not self._jobs

    def take_metrics(self) -> dict[str, float]:
        """Return what was counted for the jobs taken since the last call.

        And how many are not yet taken: a writer slower than training falls behind.
        """
        news, self._news = self._news, {}
        if self._jobs:
            news["writer/pending"] = float(len(self._jobs))
        return news

    def state(self) -> dict[str, Any]:
        """Return the jobs that were not taken, and the writer before the first."""
        with self._lock:
            first = self._jobs[0].before if self._jobs else None
            return {
                "writer": self._writer.state() if first is None else first,
                "jobs": [{"step": job.step, "job": job.job} for job in self._jobs],
            }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; jobs begin anew at the next call."""
        held = decode(_State, state, name="desk")
        self._writer.restore(held["writer"])
        self._jobs = [_Job(job["step"], job["job"]) for job in held["jobs"]]

    def _go_on(self) -> None:
        if not self._background:
            self._run()
            return
        with self._lock:
            if self._thread is None and any(not j.done.is_set() for j in self._jobs):
                # A daemon, so that a program can end before it.
                self._thread = threading.Thread(
                    target=self._run, name="writer", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                job = next((j for j in self._jobs if not j.done.is_set()), None)
                if job is None:
                    self._thread = None
                    return
                job.before = self._writer.state()
            try:
                self._writer.begin(job.step)
                job.result = self._work(self._writer, job.job)
            except Exception as error:  # told by the thread that takes it
                job.error = error
            job.metrics = self._writer.take_metrics()
            job.done.set()

    def _count(self, key: str, value: float = 1.0) -> None:
        self._news[key] = self._news.get(key, 0.0) + value
