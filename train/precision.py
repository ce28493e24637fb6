"""The precision of training steps on the given processor or GPU.

On a processor without bfloat16 arithmetic torch's convolutions emulate it and take ten times as long as in float32, so
bfloat16 recipes are computed in float32 there. Neither precision gives better models.
"""

from dataclasses import replace

import torch

from train.recipe import Recipe

BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # the last one is ARM's


def on_this_processor(recipe: Recipe) -> Recipe:
    """Return the recipe with the precision used on this processor: float32 if bfloat16 would be emulated."""
    return recipe if recipe.precision == "float32" or has_bfloat16() else replace(recipe, precision="float32")


def has_bfloat16() -> bool:
    """Return whether this processor has bfloat16 instructions and this torch has kernels (oneDNN's) that use them."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # not in torch 2.9
    return torch.backends.mkldnn.is_available() and any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS)


def on_device(recipe: Recipe, device: torch.device) -> Recipe:
    """Return the recipe with the precision used on a device: float32 on GPUs without bfloat16 (before Ampere)."""
    if device.type != "cuda":
        return on_this_processor(recipe)
    usable = recipe.precision == "float32" or torch.cuda.is_bf16_supported(including_emulation=False)
    return recipe if usable else replace(recipe, precision="float32")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return torch's autocast for a precision. On a GPU it has no cache: a CUDA graph would keep stale casts."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=device.type != "cuda"
    )
