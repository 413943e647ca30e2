"""ReSkill on ALFWorld.

  python -m reskill_jax.main --config=configs/alfworld.py --workdir=runs/a \
      --config.policy.path=models/Qwen3-4B-Instruct-2507   # the published setting
  python -m reskill_jax.main --config=configs/alfworld.py:cpu --workdir=runs/b
  python -m reskill_jax.main --config=configs/alfworld.py:smoke --workdir=runs/c

`paper` wants ALFWORLD_DATA and a Hugging Face directory with the model. `cpu` is the
laboratory: it builds small houses, starts from a small warm-started policy that ships
with the package, and ends within half an hour on two cores. `smoke` is the laboratory
for a minute, for tests.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "paper") -> ConfigDict:  # noqa: PLR0915 (a list)
    """Return the experiment's configuration, locked."""
    if variant not in ("paper", "cpu", "smoke"):
        raise ValueError(f"configs/alfworld.py:{variant}: choose paper, cpu or smoke")
    c = ConfigDict()
    c.seed = 42
    c.num_steps = 150  # training steps

    # Tasks and the processes that play them.
    c.env = ConfigDict()
    c.env.name = "alfworld"
    c.env.root = ""  # holds json_2.1.1/; empty: $ALFWORLD_DATA, or the built houses
    c.env.houses = ""  # build houses of this size (small, full); empty: none
    c.env.houses_train = 0  # how many to build per split
    c.env.houses_eval = 0
    c.env.houses_seed = 0
    c.env.workers = 8  # processes
    c.env.timeout_s = 120.0  # for one reset or step, then the worker is replaced
    c.env.max_attempts = 3  # workers that one request may cost before it is an error

    # Prompts.
    c.prompt = ConfigDict()
    c.prompt.wording = "full"  # full, or brief for small policies
    c.prompt.layout = "tree"  # tree, or paper
    c.prompt.max_tokens = 4096
    c.prompt.actions = True  # list the admissible actions
    c.prompt.history = 50  # turns shown; paper layout only

    # The policy, and where its weights come from.
    c.policy = ConfigDict()
    # Hugging Face directory; empty: the warm start below. For --mode=compile, names of
    # published models will do, see policy/presets.py.
    c.policy.path = "Qwen3-4B-Instruct-2507"
    c.policy.dtype = "bfloat16"  # compute; masters are float32
    c.policy.attention = "auto"  # xla, cudnn, splash; auto: by the devices
    # Where the starting weights wait for the KL term: device, or host, from where they
    # come to the devices for as long as they are needed.
    c.policy.reference = "device"
    # What the backward pass finds in memory: all (none), products of matrices and what
    # attention gave (dots), inputs of layers (full), or those in the memory of the host
    # (offload).
    c.policy.remat = "full"
    # Tokens per chunk of the vocabulary projection; chunks as long as rows keep their
    # logits for the backward pass.
    c.policy.logprob_chunk = 256

    # How devices are arranged, see policy/sharding.py; one size may be -1: the rest.
    c.mesh = ConfigDict()
    c.mesh.data = 1  # copies of the parameters
    c.mesh.fsdp = -1  # parameters are split over these, and rows over both
    c.mesh.tensor = 1  # heads and feed-forward widths are split over these
    c.mesh.topology = ""  # of TPUs that are not here, e.g. v6e:4x4; --mode=compile only

    # Supervised learning on demonstrations that obey skills, unless policy.path is set.
    c.warm_start = ConfigDict()
    c.warm_start.recipe = ""  # a name in laboratory/recipe.py; empty: none
    c.warm_start.retrain = False  # ignore the shipped result and cached ones

    # Rollouts.
    c.rollout = ConfigDict()
    c.rollout.tasks_per_step = 16  # groups per step
    c.rollout.max_turns = 50
    c.rollout.temperature = 1.0
    c.rollout.top_p = 1.0
    c.rollout.max_tokens = 512  # per response
    c.rollout.concurrency = 128  # episodes in flight
    # 1: the next batch is collected while the policy trains, and is one update old when
    # it is learnt from. For engine.name="vllm", which has devices of its own: a jax
    # engine shares them with the update, and cannot sleep to leave it its memory.
    c.rollout.overlap = 0

    c.engine = ConfigDict()
    c.engine.name = "jax"  # in this process; or vllm: servers beside it
    # Sequences of full length that the cache of a process has room for; most are much
    # shorter, and those that find no room wait.
    c.engine.max_sequences = 32
    c.engine.block_size = 128  # positions per cache block
    c.engine.prefill_rows = 8  # blocks per prefill call
    c.engine.decode_rows = 64  # sequences per decode call
    c.engine.decode_steps = 4  # tokens per sequence and decode call
    # For engine.name="vllm". Every trainer process starts servers of its own, on its
    # node; with devices, there is one process per node.
    c.engine.vllm = ConfigDict()
    c.engine.vllm.executable = "vllm"  # of an environment of its own
    # Of servers that run already, dealt out to the processes; empty: they are started.
    c.engine.vllm.urls = ()
    c.engine.vllm.replicas = 1  # to start, in each process
    c.engine.vllm.devices = ()  # CUDA_VISIBLE_DEVICES of each, e.g. ("4,5", "6,7")
    c.engine.vllm.tensor_parallel_size = 1  # devices that each splits the model over
    c.engine.vllm.gpu_memory_utilization = (
        0.9  # share of each device's; 0: left to the arguments
    )
    c.engine.vllm.arguments = ()  # further ones of vllm serve
    # How weights come to servers: files; or nccl, from GPU to GPU of trainers on GPUs.
    c.engine.vllm.transfer = "files"
    c.engine.vllm.weights_dir = "/dev/shm"  # for files; servers and trainer share it
    # libnccl.so.2 for nccl, the servers'; empty: that of the executable's environment.
    c.engine.vllm.libnccl = ""
    c.engine.vllm.start_timeout_s = 600.0
    c.engine.vllm.timeout_s = 300.0  # seconds for one answer
    c.engine.vllm.max_attempts = 3  # at one request, with restarts between them
    # Nats by which log-probs may differ from the trainer's; in float32, 1e-4 will do.
    c.engine.vllm.logprob_tolerance = 0.1

    # GRPO.
    c.grpo = ConfigDict()
    c.grpo.group_size = 8  # rollouts per task
    c.grpo.rule = "corrected"  # or reference: the official code's statistics
    c.grpo.scale = "std"  # or none
    c.grpo.aggregation = "episode"  # 1/G sum_i 1/|tau_i| sum_t (paper), or token
    c.grpo.invalid_penalty = 0.1
    c.grpo.clip_low = 0.2
    c.grpo.clip_high = 0.2
    c.grpo.dual_clip = 3.0
    c.grpo.kl_coef = 0.01  # k3 to the starting policy, as a loss term
    c.grpo.old_logprobs = "sampler"  # or recompute: the trainer's own
    # With the trainer's own, tokens weigh min(theirs / the sampler's, this); 0: all 1.
    c.grpo.importance_cap = 0.0
    # Nats between sampler and trainer, on average, to warn of; with rollout.overlap,
    # what an update changes is among them.
    c.grpo.logprob_diff_warning = 0.02
    c.grpo.minibatches = 4  # optimiser steps per training step
    c.grpo.learning_rate = 1e-6
    c.grpo.warmup_steps = 0  # optimiser steps in which the learning rate rises to that
    c.grpo.decay_steps = 0  # and those after it in which it falls to zero; 0: it stays
    c.grpo.weight_decay = 0.01
    c.grpo.clip_norm = 1.0
    c.grpo.buckets = (1024, 2048, 4096, 8192, 16384)  # row lengths, tokens
    c.grpo.tokens_per_microbatch = 16384  # for each of mesh.data x mesh.fsdp

    # The method.
    c.strategy = ConfigDict()
    # reskill; grpo, static; its ablations auto_accept, uniform, no_discount,
    # no_analyzer, skill_first, policy_first
    c.strategy.name = "reskill"
    c.strategy.bank = ""  # directory of SKILL.md directories to start from
    c.strategy.max_skills = 8  # skills in a bank, at most
    # Bundles tried at once, at most; 1 in the paper. Each has fewer episodes then, and
    # chance more bundles to favour.
    c.strategy.candidates = 1
    c.strategy.reservoir_size = 200  # episodes that the creator sees, at most
    c.strategy.reservoir_min = 100  # and at least

    # The trial of a candidate bank; see trials/trial.py.
    c.trial = ConfigDict()
    c.trial.mode = "paired"  # or paper: independent arms, K_e = max_steps, strict mean
    c.trial.assignment = "stratified"  # or per_rollout (paper)
    c.trial.epsilon = 0.45  # least probability of an arm; 0.2 in the paper
    c.trial.discount = "adaptive"  # constant, last_step, none
    c.trial.constant_weight = 0.9
    c.trial.min_steps = 1  # 5 in the paper
    c.trial.max_steps = 16  # 5 in the paper
    c.trial.min_episodes = 50
    c.trial.early_accept = 0.87  # bounds of P(effect > cost); paired mode only
    c.trial.early_reject = 0.08
    c.trial.accept_probability = 0.7
    c.trial.effect_sd = 0.05  # of effects, expected beforehand
    c.trial.cost_per_skill = 0.005  # that each new or changed skill must bring
    c.trial.carry_over = 32.0  # episodes of the incumbent's evidence; 0 in the paper

    # Where proposals come from; see creator/.
    c.creator = ConfigDict()
    # offline, openai (or compatible), anthropic, bedrock, replay; sidecar: the policy
    # itself, on the servers of engine.name="vllm"
    c.creator.name = "offline"
    c.creator.delay_steps = (
        0  # take a proposal up so many steps after asking; 0: when ready
    )
    c.creator.analysed_tasks = (
        30  # tasks whose episodes are analysed for one proposal; 0: none
    )
    c.creator.max_concurrency = 16  # of them at a time
    c.creator.author_attempts = 3  # of the author at a proposal that passes
    c.creator.prompts = ""  # directory of prompts that replace creator/prompts/*.md
    c.creator.replay = ""  # the creator/calls.jsonl of the run to be replayed
    c.creator.llm = ConfigDict()
    c.creator.llm.name = ""  # of the model, at its service
    c.creator.llm.base_url = (
        ""  # empty: the maker's; else e.g. http://localhost:8000/v1
    )
    c.creator.llm.api_key_variable = (
        ""  # environment variable; empty: e.g. OPENAI_API_KEY
    )
    c.creator.llm.structured = True  # the service enforces the schema of answers
    c.creator.llm.temperature = 0.2  # negative: left to the service
    c.creator.llm.max_tokens = 4096  # per answer
    c.creator.llm.timeout_s = 120.0  # seconds per attempt
    c.creator.budget = ConfigDict()  # 0: no limit
    c.creator.budget.cycle_calls = 60  # for one proposal
    c.creator.budget.cycle_tokens = 500_000
    c.creator.budget.cycle_dollars = 0.0
    c.creator.budget.run_calls = 0
    c.creator.budget.run_tokens = 0
    c.creator.budget.run_dollars = 0.0
    c.creator.budget.input_price = 0.0  # dollars per million tokens of prompts
    c.creator.budget.output_price = 0.0  # and of answers
    c.creator.retry = ConfigDict()
    c.creator.retry.max_attempts = 4  # at one call
    c.creator.retry.initial_delay_s = 1.0  # seconds before the second, then doubled
    c.creator.retry.max_delay_s = 30.0  # seconds of a pause, at most
    c.creator.retry.failure_threshold = 20  # failures in a row that stop all calls
    c.creator.retry.cooldown_s = 60.0  # seconds without calls, then doubled
    # Experiments: every k-th proposal is one of a known kind, helpful or harmful.
    c.creator.inject = "harmful"
    c.creator.inject_every = 0

    # Greedy, with the accepted bank only.
    c.eval = ConfigDict()
    c.eval.every = 10  # steps; the first and the last state are always evaluated
    c.eval.max_tasks = 140  # per split, at most
    c.eval.splits = ("valid_seen", "valid_unseen")

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 5  # steps
    c.checkpoint.keep = 2

    if variant in ("cpu", "smoke"):
        c.num_steps = 60
        c.env.houses = "small"
        c.env.houses_train = 200
        c.env.houses_eval = 48
        c.env.workers = 2
        c.env.timeout_s = 60.0
        c.prompt.wording = "brief"
        c.prompt.max_tokens = 624
        c.prompt.actions = False
        c.policy.path = ""
        c.policy.dtype = "float32"
        c.policy.remat = "dots"
        c.policy.logprob_chunk = 768
        c.mesh.fsdp = 1  # a small policy needs one device
        c.warm_start.recipe = "alfworld-small"
        c.rollout.tasks_per_step = 6
        c.rollout.max_turns = 16
        c.rollout.max_tokens = 16
        c.rollout.concurrency = 64
        c.engine.max_sequences = 64
        c.engine.block_size = 32
        c.engine.prefill_rows = 16
        c.engine.decode_rows = 16
        c.grpo.minibatches = 2
        c.grpo.learning_rate = 3e-4  # 1e-3 collapses within five steps
        c.grpo.kl_coef = 0.0  # saves the reference's pass, a quarter of an update
        c.grpo.buckets = (512, 768)
        c.grpo.tokens_per_microbatch = 3072
        c.strategy.max_skills = 6
        c.trial.max_steps = 8  # small batches and few steps, but large effects
        c.trial.effect_sd = 0.15
        c.strategy.reservoir_min = 32
        c.eval.max_tasks = 48
        c.eval.every = 20
    if variant == "smoke":
        c.num_steps = 3
        c.env.houses_train = 4
        c.env.houses_eval = 3
        c.rollout.tasks_per_step = 2
        c.rollout.max_turns = 6
        c.rollout.concurrency = 8
        c.engine.max_sequences = 8
        c.grpo.group_size = 4
        c.strategy.reservoir_min = 4
        c.eval.max_tasks = 3
        c.checkpoint.every = 1
    c.lock()
    return c
