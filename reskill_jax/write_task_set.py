"""Writes the task set of a configuration's environment as a TensorFlow dataset.

    python -m reskill_jax.write_task_set --config=configs/search.py

writes the splits that the configuration trains and evaluates on, whole, and what
env.dev holds out of train, as ``reskill_<environment>/1.0.0`` below TFDS_DATA_DIR. They
are played with ``--config.env.source=tfds:reskill_search/1.0.0``; see
`environments.tfds`.
"""

from absl import flags
from ml_collections import ConfigDict, config_flags

from reskill_jax import terminal
from reskill_jax.build import load_environment
from reskill_jax.command_line import start
from reskill_jax.environments.tfds import VERSION, data_directory, write
from reskill_jax.validate import validate


def write_task_set(config: ConfigDict) -> str:
    """Write the splits of a configuration's environment.

    Returns:
        The value of ``env.source`` that plays them.

    Raises:
        ValueError: the configuration plays a task set already.
        FileExistsError: it was written before.
    """
    if config.env.get("source"):
        raise ValueError(
            f"config.env.source={config.env.source!r} is a task set already: leave it "
            "empty to write one from files"
        )
    environment = load_environment(config)
    # What is held out of train belongs to it, whether or not it is evaluated on.
    held_out = ("dev",) if config.env.get("dev") else ()
    panels = {
        split: environment.portable(environment.panel(split, None))
        for split in dict.fromkeys(("train", *held_out, *config.eval.splits))
    }
    name = f"reskill_{config.env.name.rsplit('.')[-1]}"
    folder = write(name, panels, data_directory())
    for split, panel in panels.items():
        print(f"{split} {panel.label}")
    source = f"tfds:{name}/{VERSION}"
    print(f"wrote {folder}; play it with --config.env.source={source}")
    return source


def main() -> None:
    """Read the flags and write; what people can mend is said in a line."""
    try:
        validate(_CONFIG.value, ("env",))
        write_task_set(_CONFIG.value)
    except (ValueError, OSError) as error:
        terminal.fail(error)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "The environment's.")
    flags.mark_flag_as_required("config")
    start(main)
