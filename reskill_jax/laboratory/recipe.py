"""Recipes of warm-started policies: all settings, as plain data with a content hash.

`warm_start` trains the policy of a recipe, and finds those that were trained before.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import optax

from reskill_jax.laboratory.demonstrator import DemonstrationSettings, MistakeRates
from reskill_jax.laboratory.science import ScienceMistakes
from reskill_jax.laboratory.worlds import WORLDS, World
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.prompts import PromptBuilder


@dataclass(frozen=True)
class Shape:
    """The decoder's shape, see `DecoderConfig`."""

    vocab_size: int = 1024
    hidden_size: int = 160
    intermediate_size: int = 320
    layers: int = 4
    heads: int = 2
    kv_heads: int = 2
    head_dim: int = 64

    def decoder(self, vocab_size: int) -> DecoderConfig:
        """Return the decoder for a tokenizer of `vocab_size` ids."""
        return DecoderConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            # Slow rotations let names match over the whole length of a prompt.
            rope_theta=1e6,
            max_position_embeddings=1024,
        )


@dataclass(frozen=True)
class TrainingPhase:
    """A number of training steps and the mixture of episodes that each learns from.

    Attributes:
        steps: optimiser steps.
        text: episodes of `Recipe.fluent` per step, names shuffled, of which every token
            is predicted.
        fluent: episodes of `Recipe.fluent` per step, of which actions are predicted.
        taught: episodes of `Recipe.teaching` per step, likewise.
        practised: episodes per step that the policy played and the demonstrator
            corrected, likewise.
        rounds: how often the policy plays: `steps` are split into so many equal
            segments, and it plays before each. At least 1 where `practised` is not 0.
        shuffled: share of the episodes, other than text, whose names are shuffled.
    """

    steps: int
    text: int = 0
    fluent: int = 0
    taught: int = 0
    practised: int = 0
    rounds: int = 0
    shuffled: float = 0.2


@dataclass(frozen=True)
class TrainingSegment:
    """Consecutive steps of one phase, after which the training state is stored.

    Attributes:
        begin: number of the first step.
        end: number after the last step.
        phase: of these steps.
        plays: whether the policy plays before them, to be corrected.
    """

    begin: int
    end: int
    phase: TrainingPhase
    plays: bool


@dataclass(frozen=True)
class Recipe:
    """Everything that a warm-started policy is a function of.

    The names of fields are part of the hash, by which trained policies are found.

    Attributes:
        world_name: what is played, a key of `WORLDS`.
        houses: size of the tasks; in ALFWorld a key of `house_settings.PRESETS`.
        num_houses: tasks of the train split that are demonstrated.
        episodes: demonstrations per task, of each kind.
        held_out: demonstrations, of the first tasks, that only measure the loss.
        attempts: episodes that the policy plays in one round.
        memory: newest rounds whose episodes are practised.
        fluent: settings of demonstrations that are nearly free of mistakes.
        teaching: settings of the demonstrations to be imitated in the end.
        shape: the decoder.
        wording: prompt wording.
        actions: whether prompts list the admissible actions.
        max_tokens: prompt budget.
        learning_rate: after the warm-up. One for all phases: whenever Muon's rate is
            raised again, about a hundred steps are lost.
        warmup: steps of linear warm-up.
        decay: last steps, in which the learning rate falls to zero, linearly.
        phases: first to copy names out of the prompt, which takes text, then to act.
        seed: of all random choices.
    """

    world_name: ClassVar[str] = "alfworld"
    houses: str = "small"
    num_houses: int = 400
    episodes: int = 8
    held_out: int = 64
    attempts: int = 256
    memory: int = 4
    fluent: DemonstrationSettings = field(
        default_factory=lambda: DemonstrationSettings(
            skilled=0.0, habits=MistakeRates(0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0)
        )
    )
    teaching: DemonstrationSettings = field(default_factory=DemonstrationSettings)
    shape: Shape = field(default_factory=Shape)
    wording: str = "brief"
    actions: bool = False
    max_tokens: int = 624
    learning_rate: float = 4e-3
    warmup: int = 16
    decay: int = 500
    phases: tuple[TrainingPhase, ...] = (
        TrainingPhase(240, text=6, fluent=10, shuffled=1.0),
        TrainingPhase(360, fluent=2, taught=8, practised=4, rounds=2),
        TrainingPhase(800, taught=6, practised=8, rounds=8),
    )
    seed: int = 0

    @property
    def hash(self) -> str:
        """Content hash, 12 hex digits."""
        return _hash(self.content)

    @property
    def content(self) -> dict[str, Any]:
        """All settings, but for later ones where they change nothing."""
        return asdict(self, dict_factory=_without_later)

    @property
    def parts(self) -> tuple["Recipe", ...]:
        """What is learnt from: one recipe for each world, steps alike."""
        return (self,)

    @property
    def start(self) -> "Recipe | None":
        """The recipe whose policy goes on learning; None: random weights."""
        return None

    @property
    def world(self) -> World:
        """What is played."""
        return WORLDS[self.world_name]

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def segments(self) -> list[TrainingSegment]:
        """Split all phases into segments."""
        segments = []
        begin = 0
        for phase in self.phases:
            parts = max(phase.rounds, 1)
            ends = [begin + phase.steps * k // parts for k in range(parts + 1)]
            segments += [
                TrainingSegment(*pair, phase, plays=phase.rounds > 0)
                for pair in itertools.pairwise(ends)
            ]
            begin = ends[-1]
        return segments

    def schedule(self) -> optax.Schedule:
        """Return the learning rate of each step."""
        up = optax.linear_schedule(0.0, self.learning_rate, self.warmup)
        down = optax.linear_schedule(self.learning_rate, 0.0, self.decay)
        flat = max(self.warmup, self.steps - self.decay)
        return optax.join_schedules(
            [up, optax.constant_schedule(self.learning_rate), down],
            [self.warmup, flat],
        )

    def prompts(self, tokenizer: Tokenizer) -> PromptBuilder:
        """Return the builder of the prompts that the policy is trained on."""
        return PromptBuilder(
            tokenizer,
            wording=self.world.wordings[self.wording],
            layout="tree",
            max_tokens=self.max_tokens,
            max_turns=self.teaching.max_turns,
            show_actions=self.actions,
        )


@dataclass(frozen=True)
class ScienceRecipe(Recipe):
    """A policy for the short tasks of ScienceWorld; fewer, since Java is slow."""

    world_name: ClassVar[str] = "scienceworld"
    houses: str = "short"
    num_houses: int = 240
    episodes: int = 3
    held_out: int = 48
    attempts: int = 96
    memory: int = 2
    fluent: DemonstrationSettings = field(
        default_factory=lambda: DemonstrationSettings(
            max_turns=8,
            skilled=0.0,
            slips=0.02,
            habits=ScienceMistakes(0.05, 0.0, 0.0, 0.0, 0.0),
        )
    )
    teaching: DemonstrationSettings = field(
        default_factory=lambda: DemonstrationSettings(
            max_turns=8, slips=0.05, habits=ScienceMistakes()
        )
    )
    learning_rate: float = 4e-3
    decay: int = 150
    phases: tuple[TrainingPhase, ...] = (
        TrainingPhase(120, text=4, fluent=6),
        TrainingPhase(140, fluent=2, taught=8),
        TrainingPhase(140, taught=6, practised=4, rounds=2),
    )


@dataclass(frozen=True)
class FurtherRecipe(Recipe):
    """A policy that goes on learning, perhaps from several worlds.

    Where its vocabulary is as large as before, it keeps its tokenizer; otherwise one is
    made for the texts of all its worlds.

    Attributes:
        begins_with: name of the recipe whose policy goes on learning.
        others: what is learnt beside this recipe's own world. Of them only tasks,
            demonstrations and phases count.
    """

    learning_rate: float = 3e-3
    decay: int = 150
    begins_with: str = "alfworld-small"
    others: tuple[Recipe, ...] = ()

    @property
    def hash(self) -> str:
        """Content hash; the recipe that it begins with is a part of the content."""
        return _hash([self.content, [part.hash for part in (self.start, *self.others)]])

    @property
    def parts(self) -> tuple[Recipe, ...]:
        """What is learnt from, this recipe first."""
        return (self, *self.others)

    @property
    def start(self) -> Recipe:
        """The recipe whose policy goes on learning."""
        return RECIPES[self.begins_with]


def _without_later(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Leave out settings that came later, so that earlier policies keep their hash."""
    return {name: value for name, value in items if (name, value) != ("remarked", 0.0)}


def _hash(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# Any text in a prompt tells the policy of `Recipe` that more is to be done, since its
# demonstrations without skills had none and did less. Here texts that say nothing stand
# beside demonstrations of both kinds, so that only what a text says tells anything.
_REMARKED = FurtherRecipe(
    attempts=192,
    teaching=DemonstrationSettings(remarked=0.5),
    phases=(TrainingPhase(240, taught=6, practised=8, rounds=3),),
)
# Houses, and the short tasks of ScienceWorld, give to the same steps. Weights that copy
# names out of a prompt already need a little text for words that they have not met.
_JOINT = FurtherRecipe(
    num_houses=160,
    episodes=4,
    held_out=48,
    attempts=64,
    memory=2,
    shape=Shape(vocab_size=1536),
    phases=(
        TrainingPhase(30, text=1, taught=3),
        TrainingPhase(130, taught=4),
        TrainingPhase(100, taught=3, practised=2, rounds=1),
    ),
    others=(
        ScienceRecipe(
            num_houses=160,
            attempts=64,
            phases=(
                TrainingPhase(30, text=3, fluent=2),
                TrainingPhase(130, fluent=1, taught=5),
                TrainingPhase(100, taught=4, practised=2, rounds=1),
            ),
        ),
    ),
)
RECIPES: dict[str, Recipe] = {
    "alfworld-small": Recipe(),
    "alfworld-remarks": _REMARKED,
    "scienceworld-short": ScienceRecipe(),
    "alfworld-scienceworld": _JOINT,
}
