"""The shape of cifar90k, chosen on the validation split.

python -m train experiments ablation-cifar90k --seeds 1
"""

from dataclasses import replace

from train.experiments.study import Rung, Study
from train.recipe import find

FIRST = replace(find("cifar90k.plus"), epochs=6, network_options={})

STUDY = Study(
    name="ablation-cifar90k",
    title="cifar90k: the shape of the network",
    text=(
        "Networks of at most 92,901 parameters and 12.5 million MACs, each trained as cifar90k.plus is, but for 6 "
        "epochs of the 45,000 images of the training split; measured on the 5,000 images of the validation split. "
        "Enough to tell a point of accuracy, not a tenth."
    ),
    variants={
        "first": FIRST,
        "linear": replace(FIRST, network_options={"relu": False}),
    },
    rungs=(Rung("linear", "first", "no ReLU there: no worse, and less work", True),),
    start="a ReLU behind the sum of every residual block",
    seeds=1,
    reads_test=False,
)
