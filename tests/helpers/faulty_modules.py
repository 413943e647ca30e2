"""Modules of somebody's own with one mistake each; `env.fault` etc. choose it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import corridor_environment
import numpy as np
from corridor_environment import Drift, RemoteDrift
from corridor_strategies import Liberties

from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.protocol import EnvironmentSpec, Observation
from reskill_jax.environments.task import Task
from reskill_jax.rollout.context import EmptyContext, Note, StaticGuide, context_kind
from reskill_jax.strategies.base import Learned, Plan, Setup

SEEN = Observation("here")
RESETS: dict[str, Any] = {
    "none": lambda: None,
    "alone": lambda: SEEN,
    "three": lambda: ("goal", SEEN, 1),
    "goal": lambda: (5, SEEN),
    "text": lambda: ("goal", Observation(5)),
    "actions": lambda: ("goal", Observation("here", "left")),
}
STEPS: dict[str, Any] = {
    "none": lambda: None,
    "text": lambda: "here",
    "nan": lambda: Observation("here", reward=float("nan")),
    "inf": lambda: Observation("here", reward=np.float32("inf"), done=True),
    "huge": lambda: Observation("here", reward=10**400),
    "reward": lambda: Observation("here", reward="one"),
    "done": lambda: Observation("here", done="yes"),
    "scores": lambda: Observation("here", scores=[1.0]),
    "score": lambda: Observation("here", scores={"f1": float("inf")}),
}


class Faulty(Drift):
    """Its source says which method goes wrong, and how."""

    def reset(self, task: Task) -> Any:
        self._method, _, self._fault = task.source.partition(" ")
        if self._method == "reset":
            return RESETS[self._fault]()
        return super().reset(replace(task, source="0"))

    def step(self, action: str) -> Any:
        return STEPS[self._fault]() if self._method == "step" else super().step(action)

    def finish(self) -> Any:
        return STEPS[self._fault]() if self._method == "finish" else super().finish()


class RemoteFaulty(RemoteDrift):
    """The same with coroutines."""

    def __init__(self) -> None:
        self._world = Faulty()


@dataclass(frozen=True)
class Settings(corridor_environment.Settings):
    """With a mistake of the module itself."""

    fault: str = ""


def load(settings: Settings, *, workers: int) -> EnvironmentSpec:
    spec = corridor_environment.load(settings, workers=workers)
    match settings.fault:
        case "none":
            return None
        case "raise":
            raise KeyError("letters")
        case "make":
            return replace(spec, make=lambda: Drift())  # noqa: PLW0108 (cannot be pickled)
        case "panel":
            return replace(spec, panel=lambda split, limit: [])
        case "raising panel":
            return replace(spec, panel=partial(_broken_panel, spec))
        case "empty split":
            return replace(spec, panel=partial(_empty_panel, spec))
    return spec


def _broken_panel(spec: EnvironmentSpec, split: str, limit: int | None) -> Any:
    return spec.panel({"train": "train"}[split], limit)


def _empty_panel(spec: EnvironmentSpec, split: str, limit: int | None) -> Any:
    return spec.panel(split, limit) if split == "train" else TaskPanel(())


@context_kind("test/faulty")
@dataclass(frozen=True)
class FaultyContext:
    """A context whose guide is wrong."""

    kind = "test/faulty"
    fault: str = ""
    hash: str = "faulty"

    async def begin(self, task: Task, goal: str, observation: Observation) -> Any:
        match self.fault:
            case "begin":
                return {}["missing"]
            case "no guide":
                return None
            case "opening":
                return StaticGuide(opening=5)
        return FaultyGuide(self.fault)

    def to_json(self) -> Any:
        return object() if self.fault == "json" else self.fault

    @classmethod
    def from_json(cls, content: Any, resources: Any) -> "FaultyContext":
        return cls(content)


class FaultyGuide(StaticGuide):
    """A guide with a mistake."""

    def __init__(self, fault: str):
        super().__init__(opening="half \ud83d" if fault == "surrogate" else "")
        object.__setattr__(self, "fault", fault)
        if fault == "answer":
            object.__setattr__(self, "tags", ("action",))

    def notes(self, observation: Observation, previous_action: str | None) -> Any:
        match self.fault:
            case "notes":
                return ["go left"]
            case "note":
                return [Note("left", 5)]
            case "raising notes":
                return {}["missing"]
        return ()

    async def answer(self, action: Any) -> Any:
        return 5


class FaultyStrategy(Liberties):
    """`strategy.mode` names the mistake."""

    def __init__(self, setup: Setup):
        super().__init__(setup)
        self._fault, self._steps = setup.settings["mode"], 0

    def plan(self, step: int, draw: Any) -> Any:
        plan = super().plan(step, draw)
        match self._fault:
            case "plan none":
                return None
            case "plan raises":
                return plan.missing
            case "context":
                return Plan.alike(plan.tasks, "a bank", 2)
        return plan

    def observe(self, step: int, episodes: Any) -> Any:
        self._steps += 1
        match self._fault:
            case "observe none":
                return None
            case "metric":
                return Learned({"a": np.zeros(2)})
            case "metric text":
                return Learned({"a": "1"})
            case "event":
                return Learned(events="a word")
        return super().observe(step, episodes)

    @property
    def incumbent(self) -> Any:
        match self._fault:
            case "incumbent":
                return None
            case "incumbent json":
                return FaultyContext("json")
        return EmptyContext()

    def state(self) -> Any:
        match self._fault:
            case "state":
                return {"steps": np.int64(0)}
            case "late state":
                return {"steps": np.int64(1) if self._steps else 0}
            case "state list":
                return []
        return {}


class FaultyCreator:
    """`creator.prompts`, any text, names the mistake."""

    def __init__(self, fault: str):
        self._fault = fault

    def propose(self, evidence: Any) -> Any:
        match self._fault:
            case "propose":
                return "write more"
            case "propose raises":
                return {}["missing"]
        return None

    def take_metrics(self) -> Any:
        return {"a": "b"} if self._fault == "metrics" else {}

    def state(self) -> Any:
        return {"a": object()} if self._fault == "creator state" else {}

    def restore(self, state: Any) -> None:
        pass


def make(setup_or_settings: Any, analyse: bool = True) -> Any:
    if isinstance(setup_or_settings, Mapping):
        return FaultyCreator(setup_or_settings["prompts"])
    return FaultyStrategy(setup_or_settings)
