"""Networks of torchvision, exported by PyTorch and added, give torch's probabilities for 200 image files."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

import zoo

torch = pytest.importorskip("torch", reason="needs the extra train")
torchvision = pytest.importorskip("torchvision", reason="needs the extra train")

pytestmark = pytest.mark.slow

PICTURES, TOLERANCE = 200, 1e-4
SIDE = 112  # half of the usual input, a quarter of the time


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Cuts of photographs: PNG and JPEG, colour and grey, smaller and larger than the input, and of its own size."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    paths = []
    for number in range(PICTURES):
        photograph = photographs[number % 4]
        height, width = (int(generator.integers(60, side // 2 + 100)) for side in photograph.shape[:2])
        top, left = (int(generator.integers(0, side // 2)) for side in photograph.shape[:2])
        image = Image.fromarray(photograph[top : top + height, left : left + width])
        if number % 10 == 0:
            image = image.resize((SIDE, SIDE))
        if number % 10 == 1:
            image = image.convert("L")
        paths.append(folder / f"{number:03}.{'png' if number % 3 else 'jpg'}")
        image.save(paths[-1])
    return paths


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_added_network_gives_torchs_probabilities(name, files, tmp_path, empty_home):
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    steps = [Resize(128), CenterCrop(SIDE), ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    transform = Compose(steps)
    values = torch.stack([transform(Image.open(path).convert("RGB")) for path in files])
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights=None, num_classes=10).eval()
    expected = spread(network, values)
    torch.onnx.export(network, (values[:1],), tmp_path / "m.onnx", dynamo=True, verbose=False)  # batch of 1
    zoo.add(tmp_path / "m.onnx", "own.m", [str(label) for label in range(10)], preset="torchvision")
    probabilities = np.zeros((PICTURES, 10))
    for row, values in zip(probabilities, zoo.load("own.m", "cpu").rows(map(str, files), top_k=10), strict=True):
        for guess in values.top_k:
            row[int(guess.label)] = guess.probability
    difference = np.abs(probabilities - expected).max()
    print(f"{name}: largest difference of a probability {difference:.1e}, {PICTURES} pictures of {SIDE}x{SIDE}")
    assert difference <= TOLERANCE
    assert len(set(expected.argmax(axis=1))) >= 5  # the network tells the pictures apart
    # Without the rules of resizing, the answers differ by far more than the tolerance.
    zoo.add(tmp_path / "m.onnx", "own.exact", [str(label) for label in range(10)], preset="torchvision", resize="exact")
    other = [row.probability for row in zoo.load("own.exact", "cpu").rows(map(str, files[:20]))]
    assert np.abs(np.array(other) - expected[:20].max(axis=1)).max() > 100 * TOLERANCE


def spread(network, values):
    """Choose random weights that give every class about as often; returns the probabilities `(N, K)`."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.kaiming_normal_(module.weight)
        if any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()):
            network.train()(values[:40])  # statistics of the new weights
            network.eval()
        last = [module for module in network.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))][-1]
        if isinstance(last, torch.nn.Conv2d):  # SqueezeNet ends in ReLU and an average
            last.bias += 20 * last.weight.norm()
        scores = network(values[:40])
        mean, factor = scores.mean(0), 2 / scores.std(0)
        shape = (-1, *[1] * (last.weight.ndim - 1))
        last.bias.copy_((last.bias - mean) * factor + (100 if isinstance(last, torch.nn.Conv2d) else 0))
        last.weight *= factor.view(shape)
        return torch.softmax(network(values), 1).double().numpy()
