"""resnet8.plus: MLPerf Tiny's network, trained our way: a fair race. Not trained yet.

python -m train resnet8.plus --seed 0
"""

from dataclasses import replace

from train.recipes import cifar93k_plus

RECIPE = replace(
    cifar93k_plus.RECIPE,
    name="resnet8.plus",
    title="MLPerf Tiny's ResNet-8, trained our way",
    network="resnet8",
    default=False,
    source="The inference graph of resnet8.mlperf: 78,666 parameters. The training is that of cifar93k.plus.",
)
