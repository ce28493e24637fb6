"""Write a model of the zoo as a LiteRT file: `python -m bench.litert_convert MODEL BATCH FILE.tflite`.

The converter litert-torch needs a PyTorch of its own and JAX, so it runs in a second environment, which
`bench/runtimes.py` starts for each model (`ZOO_LITERT_PYTHON`).
"""

import sys
from pathlib import Path

import litert_torch
import torch
from safetensors.torch import load_file

from train import networks, recipe
from train.evaluate import network_input
from train.onnx_graph import fold_batch_norm
from zoo import registry


class WholeNetwork(torch.nn.Module):
    """The exported graph without its softmax: uint8 `(N, H, W, C)` → logits `(N, K)`, batch norm folded."""

    def __init__(self, entry: registry.Entry) -> None:
        super().__init__()
        self.settings = recipe.find(entry.card.name)
        network = networks.build(self.settings).eval()
        network.load_state_dict(load_file(entry.folder / "model.safetensors"))
        self.network = fold_batch_norm(network)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(network_input(images, self.settings))
        return logits


def convert(name: str, batch: int, file: Path) -> None:
    entry = registry.find(name)
    images = torch.zeros((batch, *entry.card.input.shape), dtype=torch.uint8)
    litert_torch.convert(WholeNetwork(entry).eval(), (images,)).export(str(file))


if __name__ == "__main__":
    convert(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
