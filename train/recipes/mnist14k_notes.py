"""mnist14k.notes: the network that the course notes submitted in week 2, with the notes' training.

    python -m train mnist14k.notes --seed 0

Result: 99.44 % of the 10,000 test images after the last epoch, mean of 3 seeds (sd 0.03 points). The notes' log shows
99.49 %. 20 epochs took 13 to 19 minutes on one thread of a busy 2-core machine.
"""

from train.recipe import InverseTime, Recipe

RECIPE = Recipe(
    name="mnist14k.notes",
    title="course notes' week-2 network, original recipe",
    version="1.1.0",
    dataset="mnist",
    network="mnist_stack",
    network_options={"dropout": 0.1},
    keras_defaults=True,
    epochs=20,
    batch_size=128,
    optimizer="Adam",
    optimizer_options={"eps": 1e-7},  # Keras' default
    schedule=InverseTime(initial=0.003, decay=0.319),
    source=(
        "Course notes, week 2: 14.65K parameters, 99.49 % at epoch 20. Network, optimizer, batch size and learning "
        "rates are from the notes. The notes do not state the dropout rate (0.1 here) or the initialisation (the Keras "
        "default here)."
    ),
)
