"""Runs inside vLLM's workers: takes new weights from a directory, after checking them.

A server finds it through PYTHONPATH, loads it with `--worker-extension-cls
reskill_vllm.Extension` and uses it with `--weight-transfer-config '{"backend":
"reskill_files"}'`. An update is one directory with all tensors. All of it is checked
before the model is touched, so that a bad one leaves the old weights in place: vLLM's
own reload would leave a partly emptied model, which crashes at the next request.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from weight_files import check

BACKEND = "reskill_files"


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """The directory with all tensors of one version, and the shape of every tensor.

    Shapes come with every update, since trainers of other models may ask as well.
    """

    path: str = ""
    manifest: dict[str, list[int]] = field(default_factory=dict)


class FilesEngine(WeightTransferEngine[WeightTransferInitInfo, UpdateInfo]):
    """Loads a directory of safetensors files, whole or not at all."""

    init_info_cls = WeightTransferInitInfo
    update_info_cls = UpdateInfo

    def init_transfer_engine(self, init_info: WeightTransferInitInfo) -> None:
        """Do nothing: an update says all."""

    def start_weight_update(self) -> None:
        """Leave the model unchanged until the files are checked."""
        self._loaded = False

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load a directory.

        Raises:
            ValueError: it does not hold what the manifest says; the model is unchanged.
        """
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Load a directory; see `update_weights`."""
        manifest = update_info.manifest
        shapes = {name: tuple(shape) for name, shape in manifest.items()}
        files = check(Path(update_info.path), shapes)
        initialize_layerwise_reload(self.model)
        self._loaded = True
        self.model.load_weights(_read(files))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def finish_weight_update(self) -> None:
        """Let vLLM arrange the new weights for its kernels."""
        if not self._loaded:
            return
        finalize_layerwise_reload(self.model, self.model_config)
        head: Any = getattr(self.model, "lm_head", None)
        if self.device.type == "cpu" and hasattr(head, "quant_method"):
            # On CPUs an output layer that is tied to the embedding has a packed copy of
            # its own, which vLLM 0.32 does not update.
            head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        """Do nothing: there is nothing to free."""


def _read(files: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield tensors in the order in which they were written, layer by layer."""
    for path in files:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.offset_keys():
                yield name, file.get_tensor(name)


class Extension:
    """Empty: naming it makes vLLM import this module in every worker."""


if BACKEND not in WeightTransferEngineFactory._registry:  # workers may import it twice
    WeightTransferEngineFactory.register_engine(BACKEND, FilesEngine)
