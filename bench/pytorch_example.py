"""The baseline of training speed: what PyTorch's examples/mnist does on a CPU, written from its description.

`python -m bench.pytorch_example FOLDER`, with a folder in the layout of torchvision's MNIST. As in the original: no
shuffling without an accelerator, every image transformed separately, the test set after every epoch. It uses no code of
this project.
"""

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torchvision import datasets, transforms


def network() -> nn.Sequential:
    """1,199,882 parameters; its output is log-probabilities."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
        nn.LogSoftmax(dim=1),
    )


Loader = torch.utils.data.DataLoader[Any]


def train(model: nn.Module, loader: Loader, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    model.train()
    for number, (images, labels) in enumerate(loader):
        optimizer.zero_grad()
        loss = F.nll_loss(model(images), labels)
        loss.backward()
        optimizer.step()
        if number % 10 == 0:
            print(f"Train Epoch: {epoch} [{number * len(images)}/{image_count(loader)}]\tLoss: {loss.item():.6f}")


def test(model: nn.Module, loader: Loader) -> None:
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for images, labels in loader:
            output = model(images)
            loss += F.nll_loss(output, labels, reduction="sum").item()
            correct += int((output.argmax(1) == labels).sum())
    images = image_count(loader)
    print(f"Test set: Average loss: {loss / images:.4f}, {correct} of {images} test images", flush=True)


def image_count(loader: Loader) -> int:
    return len(loader.dataset)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    parts = [datasets.MNIST(options.folder, train=part, transform=transform) for part in (True, False)]
    training, testing = (
        torch.utils.data.DataLoader(part, batch_size=size) for part, size in zip(parts, (64, 1000), strict=True)
    )
    model = network()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.7)
    for epoch in range(1, options.epochs + 1):
        train(model, training, optimizer, epoch)
        test(model, testing)
        scheduler.step()


if __name__ == "__main__":
    main()
