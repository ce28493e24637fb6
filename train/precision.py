"""In which numbers the steps of a training are computed: what suits the processor.

Where a processor has no arithmetic for bfloat16, torch's convolutions emulate it and take ten times as long as in
float32, so a recipe that asks for bfloat16 is computed in float32 there. Neither is better for what is learned.
"""

from dataclasses import replace

import torch

from train.recipe import Recipe

HAVE_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instructions of x86, and of ARM


def on_this_processor(recipe: Recipe) -> Recipe:
    """The recipe as it is computed here: in float32 where bfloat16 would be emulated."""
    return recipe if recipe.precision == "float32" or has_bfloat16() else replace(recipe, precision="float32")


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16, and this torch has kernels (oneDNN's) that make use of it."""
    told = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # not in torch 2.9
    return torch.backends.mkldnn.is_available() and any(told.get(name) for name in HAVE_BFLOAT16)


def on_device(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe as it is computed on a device: in float32 where a GPU has no bfloat16 (before Ampere)."""
    if device.type != "cuda":
        return on_this_processor(recipe)
    usable = recipe.precision == "float32" or torch.cuda.is_bf16_supported(including_emulation=False)
    return recipe if usable else replace(recipe, precision="float32")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """torch's autocast for a recipe's precision; without its cache on a GPU: a graph would keep stale casts."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=device.type != "cuda"
    )
