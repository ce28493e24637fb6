"""mnist14k.plus: the network of mnist14k.notes, trained our way.

    python -m train mnist14k.plus --seed 0

Epoch 20 of 20, all 10,000 test images: 99.59 % mean of 5 seeds (sd 0.01; 99.58 to 99.60), where the notes' training
gives 99.44 %. The settings were chosen on the validation split (docs/accuracy.md): the images are moved and bent, since
1.1.0 the light on them changes, since 1.2.0 they are noisy. Before, fog and brightness, then scattered black and white
pixels harmed it more than mnist14k.notes. Now it reads 92.6 % of all corrupted images, where mnist14k.notes reads
84.1 %; worse than it are stripes (65.6 % against 75.4 %) and thinner digits (88.2 % against 89.2 %;
docs/robustness.md). A run takes six to seven minutes on one thread.
"""

from train.recipe import OneCycle, Recipe

RECIPE = Recipe(
    name="mnist14k.plus",
    title="the course notes' week-2 network, trained our way",
    dataset="mnist",
    network="mnist_stack",
    epochs=20,
    batch_size=64,
    optimizer="AdamW",
    optimizer_options={"weight_decay": 0.01},
    schedule=OneCycle(0.01),
    precision="bfloat16",
    ema=0.999,
    augment=(
        ("affine", {"degrees": 10.0, "scale": 0.1, "shear": 0.1, "pixels": 1.5, "bend": 1.5, "fade": 0.25}),
        ("tone", {"contrast": 0.5, "light": 0.5, "fade": 0.25}),
        ("noise", {"sd": 0.2, "fade": 0.25}),
    ),
    default=True,
    version="1.2.0",
    source="The inference graph of mnist14k.notes: 14,624 parameters. The training is ours.",
)
