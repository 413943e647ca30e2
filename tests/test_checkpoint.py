import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax import checkpoint
from reskill_jax.checkpoint import Checkpointer, CheckpointError

HOST = {"bank": [], "reward": 0.1 + 0.2, "tiny": 5e-324, "rng": 2**127 + 1, "é": None}

RESTORE = """
import json, pathlib, sys
import jax, numpy as np
from reskill_jax.checkpoint import Checkpointer, CheckpointError
for name in sys.argv[1:]:
    checkpointer = Checkpointer(pathlib.Path(name), read_only=True)
    try:
        template = {"large": jax.ShapeDtypeStruct((20000,), "float32")}
        restored = checkpointer.restore(template)
        large = np.asarray(restored.arrays["large"]).tobytes().hex()
        print(json.dumps({"large": large, "host": restored.host}))
    except CheckpointError as error:
        print(json.dumps({"error": str(error)}))
    checkpointer.close()
"""


def arrays(step: int = 0) -> dict[str, object]:
    """Make a tree with the types of a training state and odd ones."""
    model = nnx.split(nnx.Linear(3, 4, rngs=nnx.Rngs(step)))[1]
    rng = np.random.default_rng(step)
    return {
        "params": model,
        "opt": optax.adamw(1e-3).init(model),
        "list": [jnp.float32(jnp.nan), (jnp.uint32(step), jnp.array([True, False]))],
        "half": jnp.asarray(rng.standard_normal((5, 7)), jnp.bfloat16),
        "large": jnp.asarray(rng.standard_normal(20_000), jnp.float32),
        "bytes": jnp.asarray(rng.integers(0, 255, 9), jnp.uint8),
    }


def saved(directory: Path, *steps: int) -> Path:
    """Save checkpoints; return the directory of the last one."""
    checkpointer = Checkpointer(directory)
    for step in steps:
        checkpointer.save(step, arrays(step), {**HOST, "step": step})
    checkpointer.close()
    return directory / f"{steps[-1]:08d}"


def restore(
    directory: Path, template: object = None, **options
) -> checkpoint.Restored | None:
    checkpointer = Checkpointer(directory, read_only=True)
    try:
        template = arrays() if template is None else template
        return checkpointer.restore(template, **options)
    finally:
        checkpointer.close()


def assert_same_bits(left: object, right: object) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_what_is_left_out_is_not_read(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    template = arrays()
    del template["opt"], template["large"]
    with pytest.raises(CheckpointError, match=r"large: .* -> absent"):
        restore(tmp_path, template)
    read = []
    monkeypatch.setattr(
        checkpoint, "_fingerprints", lambda x: read.extend(x) or {n: 0 for n in x}
    )
    with pytest.raises(CheckpointError, match="changed on disk"):
        restore(tmp_path, template, partial=True)
    assert any(name.startswith("params") for name in read)
    assert not [name for name in read if name.startswith(("opt", "large"))]
    monkeypatch.undo()
    found = restore(tmp_path, template, partial=True)
    assert_same_bits(found.arrays, {k: arrays(1)[k] for k in template})
    assert found.host["step"] == 1
    with pytest.raises(CheckpointError, match="more: absent -> float32"):
        restore(tmp_path, template | {"more": jnp.float32(0)}, partial=True)


def test_any_kept_step_can_be_asked_for(tmp_path):
    saved(tmp_path, 3, 5, 40)
    found = restore(tmp_path, step=5)
    assert (found.step, found.host["step"]) == (5, 5)
    assert_same_bits(found.arrays, arrays(5))
    with pytest.raises(CheckpointError, match=r"step 3: choose one of \[5, 40\]"):
        restore(tmp_path, step=3)
    with pytest.raises(CheckpointError, match=r"step 1: choose one of \[\]"):
        restore(tmp_path / "none", step=1)


def test_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_restores_the_newest_state_bit_for_bit(tmp_path):
    saved(tmp_path, 3, 5, 40)
    restored = restore(tmp_path, jax.eval_shape(arrays))
    assert restored is not None
    assert restored.step == 40
    assert_same_bits(restored.arrays, arrays(40))
    assert repr(restored.host) == repr({**HOST, "step": 40})


def test_keeps_the_newest_checkpoints(tmp_path):
    saved(tmp_path, 1, 2, 3, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000003", "00000004"]


def test_what_is_saved_is_the_state_at_the_call(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    state = jnp.zeros(1_000_000)
    host = {"trials": [1]}
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"x": state}, host)
    for _ in range(5):
        state = step(state)
    host["trials"].append(2)
    restored = None
    checkpointer.wait()
    restored = checkpointer.restore({"x": state})
    assert restored is not None
    assert not restored.arrays["x"].any()
    assert restored.host == {"trials": [1]}
    # Restored arrays may be donated, too.
    assert (step(restored.arrays["x"]) == 1).all()
    checkpointer.close()


@pytest.mark.parametrize(
    ("state", "host", "error", "message"),
    [
        ({"x": np.zeros(2)}, {}, TypeError, "x is array"),
        ({"a": {"n": 1}}, {}, TypeError, "a/n is 1"),
        ({"k": jax.random.key(0)}, {}, TypeError, "k is Array"),
        ({"x": jnp.ones(1)}, {"loss": float("nan")}, ValueError, "host.loss is nan"),
        ({"x": jnp.ones(1)}, {"a": [np.int64(1)]}, TypeError, r"host\.a\[0\] is of"),
    ],
)
def test_refuses_what_would_not_come_back(tmp_path, state, host, error, message):
    checkpointer = Checkpointer(tmp_path)
    with pytest.raises(error, match=message):
        checkpointer.save(1, state, host)
    checkpointer.close()
    assert restore(tmp_path) is None


def test_steps_must_increase(tmp_path):
    saved(tmp_path, 7)
    checkpointer = Checkpointer(tmp_path)
    with pytest.raises(ValueError, match="step 7 must exceed the latest one, 7"):
        checkpointer.save(7, arrays(), {})
    checkpointer.close()


def test_read_only_refuses_to_save(tmp_path):
    saved(tmp_path, 1)
    checkpointer = Checkpointer(tmp_path, read_only=True)
    with pytest.raises(ValueError, match="read-only"):
        checkpointer.save(2, arrays(), {})
    checkpointer.close()


def test_one_that_was_removed_meanwhile_is_not_called_damaged(tmp_path):
    """The run that is evaluated goes on, and keeps the newest ones only."""
    saved(tmp_path, 1, 2)
    reader = Checkpointer(tmp_path, read_only=True)
    saved(tmp_path, 3, 4)
    with pytest.raises(CheckpointError, match=r"removed while it was read: .* again"):
        reader.restore(arrays())
    reader.close()
    assert restore(tmp_path).step == 4


def test_a_copy_under_another_step_is_refused(tmp_path):
    path = saved(tmp_path, 4)
    copy = shutil.copytree(path, tmp_path / "00000009")
    with pytest.raises(CheckpointError, match=r"00000009 was .* step 4: .* 00000004,"):
        restore(tmp_path)
    assert restore(tmp_path, step=4).step == 4
    # Earlier versions did not write the step.
    manifest = copy / "manifest" / "metadata"
    document = json.loads(manifest.read_text())
    del document["step"]
    manifest.write_text(json.dumps(document))
    assert restore(tmp_path).step == 9


def test_another_shape_type_or_name_is_refused_with_both(tmp_path):
    path = saved(tmp_path, 1)
    template = arrays()
    template["half"] = jnp.zeros((5, 7), jnp.float32)
    template["large"] = jnp.zeros(3)
    template["extra"] = template.pop("bytes")
    with pytest.raises(CheckpointError) as caught:
        restore(tmp_path, template)
    message = str(caught.value)
    assert str(path) in message
    assert "half: bfloat16[5, 7] -> float32[5, 7]" in message
    assert "large: float32[20000] -> float32[3]" in message
    assert "bytes: uint8[9] -> absent" in message
    assert "extra: absent -> uint8[9]" in message


def test_every_damaged_file_is_noticed_or_harmless(tmp_path):
    """Cut, flip a bit in, or remove each file: never a wrong state, a named error."""
    large = arrays()["large"]
    checkpointer = Checkpointer(tmp_path / "whole")
    checkpointer.save(2, {"large": large}, HOST)
    checkpointer.close()
    files = [p for p in (tmp_path / "whole").rglob("*") if p.is_file()]
    cases = []
    for file in files:
        data = file.read_bytes()
        flipped = bytearray(data)
        if data:
            flipped[len(data) // 2] ^= 0x10
        name = file.relative_to(tmp_path / "whole")
        for damaged in (data[: len(data) // 2], bytes(flipped), None):
            copy = tmp_path / f"copy{len(cases)}"
            shutil.copytree(tmp_path / "whole", copy)
            target = copy / name
            target.unlink() if damaged is None else target.write_bytes(damaged)
            cases.append((name, copy))
    # In a process of its own: Orbax leaves unfinished reads that complain at its end.
    done = subprocess.run(
        [sys.executable, "-c", RESTORE, *(str(copy) for _, copy in cases)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    noticed = []
    for (name, copy), outcome in zip(cases, outcomes, strict=True):
        if "error" in outcome:
            noticed.append(name)
            assert f"{copy / '00000002'} is damaged" in outcome["error"]
            assert "Delete that directory" in outcome["error"]
        else:
            assert outcome["large"] == np.asarray(large).tobytes().hex()
            assert repr(outcome["host"]) == repr(HOST)
    assert {name.parts[1] for name in noticed} >= {"arrays", "host", "manifest"}
    largest = max(files, key=lambda p: p.stat().st_size)
    assert noticed.count(largest.relative_to(tmp_path / "whole")) == 3


def test_the_way_out_of_a_damaged_checkpoint_works(tmp_path):
    path = saved(tmp_path, 1, 2)
    host = path / "host" / "metadata"
    host.write_text(host.read_text().replace('"step": 2', '"step": 3'))
    with pytest.raises(CheckpointError, match="its documents have changed"):
        restore(tmp_path)
    shutil.rmtree(path)
    restored = restore(tmp_path)
    assert restored is not None
    assert restored.step == 1


def test_leftovers_of_a_killed_write_do_no_harm(tmp_path):
    path = saved(tmp_path, 1, 2)
    # Orbax renames to the final name last; until then a write has this one.
    leftover = tmp_path / "00000003.orbax-checkpoint-tmp"
    shutil.copytree(path, leftover)
    shutil.rmtree(leftover / "arrays")
    restored = restore(tmp_path)
    assert restored is not None
    assert restored.step == 2
    assert leftover.exists()  # a reader leaves the writer's files alone
    saved(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000002", "00000003"]
    restored = restore(tmp_path)
    assert restored is not None
    assert_same_bits(restored.arrays, arrays(3))


def test_half_removed_old_checkpoints_do_no_harm(tmp_path):
    saved(tmp_path, 1, 2)
    old = tmp_path / "00000001"
    for name in ("_CHECKPOINT_METADATA", "manifest", "arrays", "host"):
        target = old / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        restored = restore(tmp_path)
        assert restored is not None
        assert restored.step == 2
    saved(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000002", "00000003"]


def test_no_room_is_noticed_before_writing(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    checkpointer = Checkpointer(tmp_path)
    with pytest.raises(CheckpointError, match="no room for checkpoint 2") as caught:
        checkpointer.save(2, {"x": jnp.zeros(1_000_000)}, {})
    checkpointer.close()
    # 4 bytes per number, 1 MiB for metadata, and the documents.
    assert re.search(r"needs 5,048,[5-9]\d\d bytes", str(caught.value))
    assert f"in {tmp_path}, where 1,000,000 are free" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]


# One array: Orbax writes several at a time, in an event loop that it closes with
# the first that fails, so that Python complains of those that fail later.
LARGE = {"x": jnp.asarray(np.random.default_rng(0).random(100_000, np.float32))}


def test_an_error_of_the_background_write_is_raised_by_the_next_call(tmp_path):
    saved(tmp_path, 1)
    checkpointer = Checkpointer(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # writes fail beyond it
    try:
        checkpointer.save(2, LARGE, {})
        with pytest.raises(CheckpointError, match="File too large") as caught:
            checkpointer.save(3, LARGE, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(caught.value)
    assert "start the same command again" in str(caught.value)
    checkpointer.close()
    restored = restore(tmp_path)
    assert restored is not None
    assert restored.step == 1


def test_close_raises_the_error_of_the_last_write(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        checkpointer.save(1, LARGE, {})
        with pytest.raises(CheckpointError, match="writing a checkpoint failed"):
            checkpointer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_kill_9_at_random_moments(tmp_path):
    """A killed process's successor finds a whole state, as new as was promised."""
    script = Path(__file__).with_name("checkpoint_crash.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "6"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == 6
    assert report["last_step"] >= 6


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "bfloat16", "bool"])
def test_a_single_flipped_bit_changes_the_fingerprint(dtype):
    fingerprint = jax.jit(checkpoint._fingerprint)
    array = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(jnp.dtype(dtype))
    before = int(fingerprint(array))

    @settings(deadline=None)
    @given(st.integers(0, array.nbytes - 1), st.integers(0, 7))
    def check(place: int, bit: int) -> None:
        raw = array.copy().reshape(-1).view(np.uint8)
        raw[place] ^= 1 << (0 if dtype == "bool" else bit)
        changed = raw.view(array.dtype).reshape(array.shape)
        assert int(fingerprint(changed)) != before

    check()


def test_fingerprint_is_the_sum_it_claims_to_be():
    array = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    words = array.reshape(-1).view(np.uint32).astype(np.uint64)
    expected = int(sum(int(w) * (2 * i + 1) for i, w in enumerate(words))) % 2**32
    assert int(checkpoint._fingerprint(jnp.asarray(array))) == expected
