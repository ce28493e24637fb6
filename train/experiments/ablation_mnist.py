"""From the notes' training of mnist14k to ours, one change at a time, chosen on the validation split.

python -m train experiments ablation-mnist --seeds 3
"""

from dataclasses import replace

from train.experiments.study import Rung, Study
from train.recipe import OneCycle, find

NOTES = replace(find("mnist14k.notes"), precision="bfloat16", epochs=15)
SCHEDULE = replace(NOTES, optimizer="AdamW", optimizer_options={"weight_decay": 0.01}, schedule=OneCycle(0.01))
NO_DROPOUT = replace(SCHEDULE, network_options={}, keras_defaults=False)
EMA = replace(NO_DROPOUT, ema=0.999)
AUGMENTED = replace(
    EMA, augment=(("affine", {"degrees": 10.0, "scale": 0.1, "shear": 0.1, "pixels": 1.5, "fade": 0.25}),)
)
BATCH_64 = replace(AUGMENTED, batch_size=64)
STRONGER = replace(
    BATCH_64, augment=(("affine", {"degrees": 15.0, "scale": 0.15, "shear": 0.2, "pixels": 2.0, "fade": 0.25}),)
)
DROPOUT = replace(BATCH_64, network_options={"dropout": 0.05})
LIGHT = ("tone", {"contrast": 0.5, "light": 0.5, "fade": 0.25})
BENDS = ("affine", {**BATCH_64.augment[0][1], "bend": 1.5})
TONE = replace(DROPOUT, augment=(*BATCH_64.augment, LIGHT))
BENT = replace(DROPOUT, augment=(BENDS,))
TONE_ALONE = replace(BATCH_64, augment=TONE.augment)
TONE_BENT = replace(TONE_ALONE, augment=(BENDS, LIGHT))
NOISE = {sd: replace(TONE_BENT, augment=(BENDS, LIGHT, ("noise", {"sd": sd, "fade": 0.25}))) for sd in (0.1, 0.2)}
DISTILLED = replace(NOISE[0.2], distill={"teacher": "mnist105k.teacher", "share": 0.9, "temperature": 4.0})
BRANCHED = replace(AUGMENTED, branches=1)

STUDY = Study(
    name="ablation-mnist",
    title="mnist14k: from the notes' training to ours",
    text=(
        "The network of 14,624 parameters as it is; only its training changes. 15 epochs of the 55,000 images of the "
        "training split, batch 128 unless said otherwise, steps in bfloat16, measured on the 5,000 images of the "
        "validation split."
    ),
    variants={
        "notes": NOTES,
        "schedule": SCHEDULE,
        "no-dropout": NO_DROPOUT,
        "ema": EMA,
        "augmented": AUGMENTED,
        "batch-64": BATCH_64,
        "batch-32": replace(BATCH_64, batch_size=32),
        "stronger": STRONGER,
        "rate-0.02": replace(BATCH_64, schedule=OneCycle(0.02)),
        "dropout": DROPOUT,
        "tone": TONE,
        "bent": BENT,
        "tone-alone": TONE_ALONE,
        "tone-bent": TONE_BENT,
        "tone-bent-0.02": replace(TONE_BENT, schedule=OneCycle(0.02)),
        **{f"noise-{sd}": recipe for sd, recipe in NOISE.items()},
        "distilled": DISTILLED,
        "branched": BRANCHED,
        "branched-64": replace(BRANCHED, batch_size=64),
    },
    rungs=(
        Rung("schedule", "notes", "AdamW and one cycle of the learning rate up to 0.01", True),
        Rung(
            "no-dropout",
            "schedule",
            "no dropout, and torch's initial weights: no gain by itself, left out for what follows",
            True,
        ),
        Rung("ema", "no-dropout", "moving average of the weights, 0.999 a step", True),
        Rung("augmented", "ema", "turns, shears, sizes and shifts, faded away in the last quarter", True),
        Rung("batch-64", "augmented", "half the batch, at the same rates", True),
        Rung("batch-32", "batch-64", "half again, at the same rates", False),
        Rung("stronger", "batch-64", "larger changes of the images: by a third (shifts) to twice (shears)", False),
        Rung("rate-0.02", "batch-64", "twice the rate", False),
        Rung("dropout", "batch-64", "half of the notes' dropout, 0.05, on top of all this", False),
        Rung("tone", "dropout", "less contrast, and uneven light on the images, faded away in the last quarter", False),
        Rung("bent", "dropout", "elastic distortion: 4 x 4 places moved by up to 1.5 pixels, faded likewise", False),
        Rung("tone-alone", "batch-64", "the same light without dropout: it mends what the corrupted images lost", True),
        Rung("tone-bent", "tone-alone", "the same elastic distortion on top", True),
        Rung("tone-bent-0.02", "tone-bent", "twice the rate, on top of both", False),
        Rung("noise-0.1", "tone-bent", "Gaussian noise of up to 0.1 of white on top, faded likewise", False),
        Rung(
            "noise-0.2",
            "tone-bent",
            "of up to 0.2: kept for impulse noise (77 → 98 % read) and other corrupted images; clean ones do not gain",
            True,
        ),
        Rung(
            "distilled",
            "noise-0.2",
            "nine tenths of the loss from a teacher of 105,386 parameters, at temperature 4: no gain",
            False,
        ),
        Rung("branched", "augmented", "branches that fold: 3x3, 1x1 and identity, each with a batch norm", False),
        Rung(
            "branched-64",
            "batch-64",
            "the same branches, with half the batch: no gain that one seed could show",
            False,
        ),
    ),
    reads_test=False,
)
