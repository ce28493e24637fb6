"""Layers of the ONNX graph: sizes, receptive fields, parameters and MACs against values calculated by hand."""

import onnx
import pytest
import torch
from torch import nn

from train import networks, recipe
from train import onnx_graph as deploy
from zoo import registry
from zoo.inspection import onnx_layers as layers_module


def layers_of(network, shape):
    program = torch.onnx.export(
        network.eval(), (torch.zeros(2, *shape),), dynamic_shapes=({0: torch.export.Dim("N")},), dynamo=True,
        opset_version=18, verbose=False,
    )  # fmt: skip
    return layers_module.layers(program.model_proto)


def test_mnist14k_layer_by_layer():
    model = onnx.load(registry.find("mnist14k.notes").folder / "model.onnx")
    layers = layers_module.layers(model)
    assert [layer.output for layer in layers] == [
        (16, 26, 26), (32, 24, 24), (32, 12, 12), (10, 12, 12),
        (16, 10, 10), (16, 8, 8), (16, 6, 6), (10, 4, 4), (10, 1, 1),
    ]  # fmt: skip
    assert [layer.receptive_field for layer in layers] == [3, 5, 6, 6, 10, 14, 18, 22, 28]
    assert layers[1].kind == "convolution 3x3"
    assert layers[1].macs == 24 * 24 * 32 * 16 * 9
    assert layers[1].parameters == 32 * 16 * 9 + 32
    assert layers[2].macs == layers[2].parameters == 0
    assert layers == registry.find("mnist14k.notes").card.layers


@pytest.mark.slow
def test_two_3x3_convolutions_have_a_5x5_field():
    layers = layers_of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)), (1, 12, 12))
    assert [layer.receptive_field for layer in layers] == [3, 5]


@pytest.mark.slow
def test_cifar93k_fields_match_the_course_notes():
    """The notes' comments say (output, receptive field) 32,3 30,5 15,6 15,10 13,14 6,16 6,24 4,32 and for the global
    pool 2,36; ours agree but for the last: averaging 4 positions that are 4 pixels apart sees 32 + 3 · 4 = 44."""
    torch.manual_seed(0)
    found = recipe.find("cifar93k.notes")
    layers = layers_module.layers(deploy.to_onnx(networks.build(found), found, 1.0))
    compared = [layer for layer in layers if "1x1" not in layer.kind and layer.kind != "dense"]
    seen = [(layer.output[-1], layer.receptive_field) for layer in compared]
    assert seen == [(32, 3), (30, 5), (15, 6), (15, 10), (13, 14), (6, 16), (6, 24), (4, 32), (1, 44)]
    depthwise = next(layer for layer in layers if layer.kind == "depthwise convolution 3x3")
    assert (depthwise.parameters, depthwise.macs) == (27, 27 * 32 * 32)
    assert [layer.output for layer in layers[-2:]] == [(256,), (10,)]
    assert layers[-1].macs == 2560


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "dilation", "field"), [(1, 1, 5), (2, 1, 7), (1, 2, 7), (2, 2, 11)])
def test_stride_and_dilation(stride, dilation, field):
    network = nn.Sequential(nn.Conv2d(1, 1, 3, stride=stride), nn.Conv2d(1, 1, 3, dilation=dilation))
    assert layers_of(network, (1, 40, 40))[1].receptive_field == field


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.long = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1))
        self.end = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.end(x + self.long(x))


@pytest.mark.slow
def test_receptive_field_is_that_of_the_widest_branch():
    assert [layer.receptive_field for layer in layers_of(Residual(), (1, 9, 9))] == [3, 5, 5]
