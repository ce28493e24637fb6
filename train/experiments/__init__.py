"""Studies: claims and ablations, measured with several seeds.

study (data) → run → docs/experiments/STUDY/VARIANT.seedN.json → analysis → docs/experiments.md, docs/accuracy.md
"""
