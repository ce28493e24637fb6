"""How well maps of evidence point at the pixels that an answer depends on: `python -m bench.attribution`.

For training images, first and second guess and two sizes of squares: how often the logit loses more if the square with
the most evidence is covered than if the one with the least is. Chance is 50 %. Squares are covered with the mean colour
and with a blurred image; occlusion itself covers them with the colour of the border. Both methods are measured for
every model that has feature maps, whichever of them `zoo inspect` chooses, and the CPU time of both guesses together.
"""

import argparse
import time

import cv2
import numpy as np
import numpy.typing as npt

from zoo import list_models
from zoo.datasets import catalog
from zoo.inspection.attribution import Attribution, Explainer, Method
from zoo.loading import load
from zoo.model import Model, onnx_bytes

Pixels = npt.NDArray[np.uint8]
METHODS: tuple[Method, ...] = ("class activation", "occlusion")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="default: all that are shipped")
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    print("| model | used | class activation | ms | occlusion | ms |\n|---|---|---|---|---|---|")
    for name in options.models or [card.name for card in list_models()]:
        model = load(name)
        explainer = Explainer(onnx_bytes(model))
        images = samples(model, options.images)
        cells = [name, explainer.method]
        for method in METHODS:
            share, milliseconds = measure(model, explainer, images, method)
            cells += [f"{share:.1%}", f"{milliseconds:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def samples(model: Model, count: int) -> Pixels:
    images = catalog.load("mnist" if model.card.input.form == "digit" else "cifar10", "train").images
    chosen: Pixels = images[np.random.default_rng(0).choice(len(images), count, replace=False)]
    return chosen


def measure(model: Model, explainer: Explainer, images: Pixels, method: Method) -> tuple[float, float]:
    """The share of comparisons in which the square with the most evidence mattered more, and milliseconds per image."""
    wins, seconds = [], 0.0
    for image in images:
        guesses = np.argsort(-model.run(image[np.newaxis]).logits[0])[:2].tolist()
        started = time.process_time()
        found = explainer.explain(image, guesses, method)
        seconds += time.process_time() - started
        wins += [comparison for each in found for comparison in compare(model, image, each)]
    return float(np.mean(wins)), 1000 * seconds / len(images)


def compare(model: Model, image: Pixels, found: Attribution) -> list[bool]:
    height, width, _ = image.shape
    mean = np.broadcast_to(image.mean((0, 1)).round().astype(np.uint8), image.shape)
    blurred = cv2.GaussianBlur(image, (0, 0), height / 5).reshape(image.shape)
    results = []
    for side in (height // 4, height // 3):
        places = [(top, left) for top in range(0, height - side + 1, 2) for left in range(0, width - side + 1, 2)]
        evidence = [found.contributions[top : top + side, left : left + side].mean() for top, left in places]
        covered = np.stack([image] * 5)
        for number, filler in enumerate((mean, blurred)):
            for most in (0, 1):
                top, left = places[int(np.argmax(evidence) if most else np.argmin(evidence))]
                square = slice(top, top + side), slice(left, left + side)
                covered[1 + 2 * number + most][square] = filler[square]
        logits = model.run(covered).logits[:, found.label_index]
        results += [bool(logits[2] < logits[1]), bool(logits[4] < logits[3])]
    return results


if __name__ == "__main__":
    main()
