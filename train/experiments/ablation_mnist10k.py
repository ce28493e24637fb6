"""How much the images of mnist10k are changed, chosen on the validation split.

python -m train experiments ablation-mnist10k --seeds 2
"""

from dataclasses import replace

from train.experiments.ablation_mnist import NOISE, TONE_BENT
from train.experiments.study import Rung, Study
from train.recipe import OneCycle, find

NETWORK = {"network_options": {"body": find("mnist10k.notes").network_options["body"]}}
AS_14K = replace(NOISE[0.2], **NETWORK)
FADE = replace(AS_14K, augment=tuple((name, {**options, "fade": 0.5}) for name, options in AS_14K.augment))
HALF = (
    ("affine", {"degrees": 5.0, "scale": 0.05, "shear": 0.05, "pixels": 0.75, "bend": 0.75, "fade": 0.25}),
    ("tone", {"contrast": 0.5, "light": 0.5, "fade": 0.25}),
    ("noise", {"sd": 0.2, "fade": 0.25}),
)

STUDY = Study(
    name="ablation-mnist10k",
    title="mnist10k: how much its images are changed",
    text=(
        "The network of 9,824 parameters, trained as `noise-0.2` of mnist14k is: 15 epochs of the 55,000 images of the "
        "training split, measured on the 5,000 images of the validation split. It fits the images less well than "
        "mnist14k does, so less change of them, or more steps, might suit it. The loss decides, with both "
        "seeds: so few images tell accuracies apart that differ by three in a thousand, not by one. The "
        "test figures of version 1.0.0, trained as `as-14k`, were known when this was asked; those of 1.1.0 when "
        "the runs of 20 epochs were."
    ),
    variants={
        "as-14k": AS_14K,
        "half": replace(AS_14K, augment=HALF),
        "fade-0.5": FADE,
        "no-noise": replace(TONE_BENT, **NETWORK),
        "batch-32": replace(AS_14K, batch_size=32),
        "sgd": replace(
            AS_14K,
            optimizer="SGD",
            optimizer_options={"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
            schedule=OneCycle(0.2),
        ),
        "as-14k-20": replace(AS_14K, epochs=20),
        "fade-0.5-20": replace(FADE, epochs=20),
    },
    rungs=(
        Rung("half", "as-14k", "turns, shears, sizes, shifts and bends half as large", False),
        Rung("fade-0.5", "as-14k", "the changes fade in the last half instead of the last quarter", True),
        Rung("no-noise", "as-14k", "no Gaussian noise", False),
        Rung("batch-32", "as-14k", "half the batch, at the same rates", False),
        Rung(
            "sgd", "as-14k", "SGD with Nesterov's momentum and weight decay, as for CIFAR, with rates up to 0.2", False
        ),
        Rung("as-14k-20", "as-14k", "20 epochs, as the final recipe has", True),
        Rung(
            "fade-0.5-20",
            "as-14k-20",
            "the changes fade in the last half: no difference to be seen now",
            True,
        ),
    ),
    start="everything as mnist14k.plus has it",
    seeds=2,
    reads_test=False,
)
