"""Claims put to the test: a study's variants are trained with several seeds, and its page tells what held.

study (data) → run → docs/experiments/STUDY/VARIANT.seedN.json → quantities → verdicts → docs/experiments.md, plots
"""
