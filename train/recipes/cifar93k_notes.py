"""cifar93k.notes: the course notes' week-3 network of separable convolutions, trained their way.

    python -m train cifar93k.notes --seed 0

Not trained yet with these dropout rates.
"""

from train.recipe import Recipe
from train.schedules import Constant

RECIPE = Recipe(
    name="cifar93k.notes",
    title="the course notes' week-3 separable network, trained their way",
    dataset="cifar10",
    network="cifar93k",
    network_options={"dense_dropout": 0.1},
    keras_defaults=True,
    epochs=50,
    batch_size=128,
    optimizer="Adam",
    optimizer_options={"eps": 1e-7},  # Keras' default
    schedule=Constant(0.001),
    mean=(0.0, 0.0, 0.0),
    sd=(255.0, 255.0, 255.0),
    precision="bfloat16",
    augment=(("flip", {}), ("shift", {"pixels": 3})),
    default=True,
    source=(
        "Course notes, week 3: 92,901 parameters, 82.78 % at epoch 50 of 50, best epoch 84.55 %. The network and the "
        "number of steps are theirs; the notes do not state the dropout rates, the optimizer (Adam 0.001, Keras' "
        "default, here) nor the ranges of the augmentation (flip, a tenth of the side, here). Dropout was chosen by "
        "their log of the first epoch, 50.13 % and a loss of 1.3826: without any it is 51.7 % and 1.352, with 0.25 "
        "before the last layer 48.6 % and 1.444, with 0.05 elsewhere too 45.7 % and 1.507."
    ),
)
