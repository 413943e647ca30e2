"""One checkpoint holds all state of a run: arrays and a JSON document.

`Checkpointer` writes directories ``<directory>/<step>`` in the background with Orbax: a
write becomes visible by one rename, so that a process killed at any moment leaves the
former checkpoint as the latest one. Beside the arrays (parameters, optimiser) and the
host document (bank, trial, reservoir, cursors, random state) lies a manifest: name,
type, shape and a fingerprint of every array, and the step. Orbax itself would cast to
the template's type, hand out arrays with flipped bits, and take a renamed directory for
another step; the manifest turns all three into errors.

    checkpointer = Checkpointer(workdir.checkpoints)
    restored = checkpointer.restore({"params": params, "opt": opt})
    ...
    checkpointer.save(step, {"params": params, "opt": opt}, {"bank": ..., "trial": ...})
    ...
    checkpointer.close()
"""

import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    LatestN,
    PolicyCheckpointInfo,
    PreservationContext,
)

from reskill_jax.storage import plain
from reskill_jax.terminal import activity

_SLACK = 1 << 20  # bytes of metadata that a write adds to arrays and host document
_LISTED = 5  # differing arrays that an error message shows


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message tells the way out."""


class Restored(NamedTuple):
    """What `Checkpointer.restore` returns.

    Attributes:
        step: the step under which it was saved.
        arrays: pytree like the template, bit for bit what was saved.
        host: the host document; tuples have become lists.
    """

    step: int
    arrays: Any
    host: dict[str, Any]


class _OneMore:
    """Preserves one step that may change; None: none.

    Orbax's `BestN` goes by scores that are saved with a checkpoint, and of equal ones
    it keeps the later. A run may know a score only when the checkpoint is there: an
    evaluation that was interrupted is made after the resume.
    """

    step: int | None = None

    def should_preserve(
        self,
        checkpoints: Sequence[PolicyCheckpointInfo],
        *,
        context: PreservationContext,
    ) -> Sequence[bool]:
        """Tell of each checkpoint whether it is this one."""
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpointer:
    """Saves and restores the newest states of one run.

    Args:
        directory: made if missing; leftovers of killed writes in it are removed.
        keep: number of newest checkpoints to keep.
        read_only: for looking at a run that another process may be writing: nothing is
            made or removed, and `save` is an error.
    """

    def __init__(self, directory: Path, keep: int = 2, read_only: bool = False) -> None:
        self._directory = directory.absolute()
        self._read_only = read_only
        self._needed = 0  # bytes of the last write
        self._best = _OneMore()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(keep), self._best]),
                step_format_fixed_length=8,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                enable_async_checkpointing=True,
            ),
        )

    def save(
        self,
        step: int,
        arrays: Any,
        host: Mapping[str, Any],
        best: int | None = None,
    ) -> None:
        """Write a checkpoint in the background.

        Returns once all is copied: arrays may be donated and the document changed then.

        Args:
            step: number of steps done; must exceed that of the latest checkpoint.
            arrays: pytree of `jax.Array`.
            host: JSON document: dicts with string keys, lists, tuples, strings, finite
                floats (restored exactly), integers, booleans, None.
            best: step whose checkpoint, if there is one, is kept beside the newest.

        Raises:
            CheckpointError: the former write failed, or this one has no room.
            TypeError, ValueError: `arrays` or `host` hold what cannot be stored.
        """
        if self._read_only:
            raise ValueError(f"the checkpoints in {self._directory} are open read-only")
        self.wait()
        document = plain(host, "host")
        entries = _manifest(arrays)
        text = json.dumps([document, entries])
        checksum = zlib.crc32(text.encode())
        manifest = {"arrays": entries, "checksum": checksum, "step": step}
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        self._needed = size + len(text) + _SLACK
        if self._free() < self._needed:
            raise CheckpointError(f"no room for checkpoint {step}: {self._way_out()}")
        args = ocp.args.Composite(
            arrays=ocp.args.PyTreeSave(arrays),
            host=ocp.args.JsonSave(document),
            manifest=ocp.args.JsonSave(manifest),
        )
        self._best.step = best
        if not self._manager.save(step, args=args):
            raise ValueError(
                f"checkpoint step {step} must exceed the latest one, "
                f"{self._manager.latest_step()}"
            )

    def latest(self) -> int | None:
        """Return the step of the latest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def restore(
        self, template: Any, step: int | None = None, *, partial: bool = False
    ) -> Restored | None:
        """Read a complete checkpoint; None if there is none.

        Args:
            template: pytree of `jax.Array` or `jax.ShapeDtypeStruct` with the wanted
                structure, shapes, types and shardings (default: the first device).
            step: which; None for the latest.
            partial: read only the arrays that the template names.

        Raises:
            CheckpointError: there is none of `step`, it is damaged or that of another
                step, or its arrays are not those of the template.
        """
        saved = self.steps()
        if step is not None and step not in saved:
            raise CheckpointError(
                f"{self._directory} holds no checkpoint of step {step}: choose one of "
                f"{saved}"
            )
        step = self.latest() if step is None else step
        if step is None:
            return None
        path = self._directory / f"{step:08d}"
        try:
            json_args = ocp.args.Composite(
                host=ocp.args.JsonRestore(), manifest=ocp.args.JsonRestore()
            )
            documents = self._manager.restore(step, args=json_args)
            host, entries = documents.host, documents.manifest["arrays"]
            checksum = zlib.crc32(json.dumps([host, entries]).encode())
            intact = checksum == documents.manifest["checksum"]
            # Those of earlier versions tell no step.
            written = documents.manifest.get("step", step)
        except Exception as error:  # Orbax raises many kinds, even bare Exception
            raise CheckpointError(_unreadable(path, error)) from error
        if not intact:
            raise CheckpointError(_damaged(path, "its documents have changed"))
        if written != step:
            raise CheckpointError(
                f"the checkpoint {path} was written as that of step {written}: it was "
                f"copied or renamed. Give it back its name, {written:08d}, or delete it"
            )
        _check_fit(path, entries, template, partial)
        try:
            array_args = ocp.args.PyTreeRestore(
                template,
                restore_args=jax.tree.map(_restore_args, template),
                partial_restore=partial,
            )
            with activity(f"reading the checkpoint of step {step}"):
                restored = self._manager.restore(
                    step, args=ocp.args.Composite(arrays=array_args)
                )
        except Exception as error:
            raise CheckpointError(_unreadable(path, error)) from error
        found = _manifest(restored.arrays)
        wanted = {name: entries[name] for name in found}
        if differing := _differences(wanted, found):
            raise CheckpointError(_damaged(path, f"changed on disk: {differing}"))
        return Restored(step, restored.arrays, host)

    def wait(self) -> None:
        """Block until the last write is complete.

        Raises:
            CheckpointError: it failed; the former checkpoint is intact.
        """
        try:
            with activity("writing a checkpoint"):
                self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            message = f"writing a checkpoint failed: {error}\n{self._way_out()}"
            raise CheckpointError(message) from error

    def close(self) -> None:
        """Wait for the last write, then free what the checkpointer holds.

        Raises:
            CheckpointError: the last write failed.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def _free(self) -> int:
        return shutil.disk_usage(self._directory).free

    def _way_out(self) -> str:
        return (
            f"it needs {self._needed:,} bytes in {self._directory}, where "
            f"{self._free():,} are free. Former checkpoints are intact: make room, or "
            "move the workdir to a larger disk, and start the same command again."
        )


def _restore_args(leaf: Any) -> ocp.RestoreArgs:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return ocp.ArrayRestoreArgs(
        sharding=sharding, dtype=leaf.dtype, global_shape=leaf.shape
    )


def _names(tree: Any) -> list[tuple[str, Any]]:
    """List the leaves, with names such as ``params/kernel``."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _signature(leaf: Any) -> str:
    return f"{leaf.dtype.name}{list(leaf.shape)}"


def _manifest(arrays: Any) -> dict[str, list[str | int]]:
    """Map the name of each array to its signature and fingerprint."""
    for name, leaf in _names(arrays):
        if not isinstance(leaf, jax.Array) or jnp.issubdtype(
            leaf.dtype, jax.dtypes.extended
        ):
            raise TypeError(
                f"{name} is {leaf!r:.80}: a checkpoint's arrays are plain jax.Arrays; "
                "put other values into the host document"
            )
    leaves = dict(_names(arrays))
    prints = jax.device_get(_fingerprints(leaves))
    return {
        name: [_signature(leaf), int(prints[name])] for name, leaf in leaves.items()
    }


@jax.jit
def _fingerprints(arrays: Any) -> Any:
    return jax.tree.map(_fingerprint, arrays)


def _fingerprint(x: jax.Array) -> jax.Array:
    """Sum the bit patterns, each times the odd number of its place, modulo 2^32.

    Any change of a single word changes the sum. Integer sums do not depend on their
    order, so that it is the same number however the array is sharded.
    """
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * size + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)


def _check_fit(
    path: Path, stored: dict[str, list[str | int]], template: Any, partial: bool
) -> None:
    """Raise unless names, types and shapes are the stored ones."""
    want = {name: _signature(leaf) for name, leaf in _names(template)}
    have = {name: entry[0] for name, entry in stored.items()}
    if partial:
        have = {name: entry for name, entry in have.items() if name in want}
    if differing := _differences(have, want):
        raise CheckpointError(
            f"the checkpoint {path} does not fit this program (stored -> wanted): "
            f"{differing}. Start with the configuration and the version that wrote it, "
            "or choose another --workdir."
        )


def _differences(have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
    """List entries that differ, as text; empty if none does."""
    names = sorted(n for n in have.keys() | want.keys() if have.get(n) != want.get(n))
    listed = [
        f"{name}: {have.get(name, 'absent')} -> {want.get(name, 'absent')}"
        for name in names[:_LISTED]
    ]
    if len(names) > _LISTED:
        listed.append(f"and {len(names) - _LISTED} more")
    return "; ".join(listed)


def _unreadable(path: Path, error: Exception) -> str:
    if path.exists():
        return _damaged(path, " ".join(str(error).split()))
    return (
        f"the checkpoint {path} was removed while it was read: the process that writes "
        "the run keeps the newest only. Start the same command again, or resume the "
        "run with a larger config.checkpoint.keep."
    )


def _damaged(path: Path, reason: str) -> str:
    return (
        f"the checkpoint {path} is damaged ({reason[:500]}). Delete that directory to "
        "fall back to the one before it, or to start anew if it is the only one."
    )
