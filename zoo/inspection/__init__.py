"""What happens inside a network: layers, activations, and where an answer comes from. Needs the extra `inspect`."""

from zoo.inspection.attribution import Attribution, attributions, class_activation

__all__ = ["Attribution", "attributions", "class_activation"]
