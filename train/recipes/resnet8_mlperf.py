"""resnet8.mlperf: MLPerf Tiny's network for CIFAR-10, a reference for the other models.

    python -m train resnet8.mlperf --seed 0

Result: 85.25 % of the 10,000 test images after the last of 24 epochs (one seed). A run took 57 minutes on one core of a
machine that had other work.
"""

from train.recipe import OneCycle, Recipe

RECIPE = Recipe(
    name="resnet8.mlperf",
    title="MLPerf Tiny's ResNet-8, short recipe",
    version="1.1.0",
    dataset="cifar10",
    network="resnet8",
    epochs=24,
    batch_size=128,
    optimizer="SGD",
    optimizer_options={"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    schedule=OneCycle(0.3),
    mean=(125.3, 123.0, 113.9),
    sd=(63.0, 62.1, 66.7),
    augment=(("flip", {}), ("shift", {"pixels": 4})),
    source=(
        "MLPerf Tiny (mlcommons/tiny): 78,666 parameters, 12.5 million MACs, 87.19 % in float32, required accuracy "
        "85 %. The network is MLPerf's. MLPerf trains 500 epochs with batch 32 and Adam; this recipe is shorter."
    ),
)
