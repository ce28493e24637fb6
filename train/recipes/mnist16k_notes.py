"""mnist16k.notes: "code8", the first week-2 network of the course notes, with the notes' training.

    python -m train mnist16k.notes --seed 0

Result: 99.37 % of the 10,000 test images after the last epoch, mean of 3 seeds (sd 0.05 points). The notes give no
figure. 20 epochs took 19 to 26 minutes on one thread of a busy 2-core machine.
"""

from train.recipe import InverseTime, Recipe

RECIPE = Recipe(
    name="mnist16k.notes",
    title="course notes' first week-2 network, original recipe",
    version="1.1.0",
    dataset="mnist",
    network="mnist_stack",
    network_options={"body": (16, 16, 16, 16), "squeeze_first": True, "dropout": 0.1, "logit_dropout": 0.1},
    keras_defaults=True,
    epochs=20,
    batch_size=128,
    optimizer="Adam",
    optimizer_options={"eps": 1e-7},  # Keras' default
    schedule=InverseTime(initial=0.003, decay=0.319),
    default=True,
    source=(
        "Course notes, week 2, the file code8: about 16K parameters (16,472 as built here), 1x1 convolution before the "
        "max pool, 16 channels in the last 3x3 convolution, dropout before the softmax. The notes do not state the "
        "dropout rates (0.1 here)."
    ),
)
