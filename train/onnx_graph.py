"""A trained network → the deployed ONNX graph: uint8 images in, logits and calibrated probabilities out."""

import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from train.networks import Dropout, Residual
from train.recipe import Recipe
from zoo.datasets import catalog as datasets

OPSET = 18  # newer operators are not needed
IR_VERSION = 8  # of the file format; the exporter's newer default is not accepted by older runtimes


class Deployed(nn.Module):
    """The deployed network: uint8 `(N, H, W, C)` in, logits and calibrated probabilities `(N, K)` out."""

    scale: torch.Tensor
    mean: torch.Tensor

    def __init__(self, network: nn.Sequential, recipe: Recipe, temperature: float) -> None:
        super().__init__()
        self.network = fold_batch_norm(network)
        self.temperature = temperature
        self.register_buffer("scale", 1 / torch.tensor(recipe.sd).view(1, -1, 1, 1))
        self.register_buffer("mean", torch.tensor(recipe.mean).view(1, -1, 1, 1))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = image.permute(0, 3, 1, 2).float()
        scores = self.network((values - self.mean) * self.scale)
        return scores, torch.softmax(scores / self.temperature, 1)


class GlobalAverage(nn.Module):
    """`nn.AdaptiveAvgPool2d(1)` as one ONNX operator; the exporter writes a dozen for torch's module."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.mean((2, 3), keepdim=True)


def fold_batch_norm(network: nn.Sequential) -> nn.Sequential:
    """Return an equivalent stack for inference, without batch norm and dropout, that exports to simple operators.

    Batch norm after a max pool stays, because a negative scale cannot be moved through the pool.
    """
    folded: list[nn.Module] = []
    for layer in network.eval():
        previous = folded[-1] if folded else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
            folded[-1] = fuse_conv_bn_eval(previous, layer)
        elif isinstance(layer, nn.BatchNorm1d) and isinstance(previous, nn.Linear):
            folded[-1] = fuse_linear_bn_eval(previous, layer)
        elif isinstance(layer, Residual):
            folded.append(Residual(fold_batch_norm(layer.long), fold_batch_norm(layer.short), layer.relu))
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            folded.append(GlobalAverage())
        elif not isinstance(layer, Dropout):
            folded.append(layer)
    return nn.Sequential(*folded)


def to_onnx(
    network: nn.Sequential, recipe: Recipe, temperature: float, shape: tuple[int, int, int] | None = None
) -> onnx.ModelProto:
    """Return the deployed network as a checked ONNX model with dynamic N and without the exporter's debug metadata.

    Args:
        shape: H, W, C of the images, by default those of the recipe's data set.
    """
    shape = shape or datasets.DATASETS[recipe.dataset].image_shape
    program = torch.onnx.export(
        Deployed(network, recipe, temperature).eval(),
        (torch.zeros(2, *shape, dtype=torch.uint8),),
        input_names=["image"],
        output_names=["logits", "probabilities"],
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for values in (model.graph.value_info, model.graph.input, model.graph.output, model.graph.initializer):
        for value in values:
            value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    model.graph.name = recipe.architecture
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model
