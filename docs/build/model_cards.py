"""card.json → docs/models/NAME.md in the model card format of the Hugging Face hub (YAML front matter)."""

from zoo import model_card
from zoo.card import Card

FOOTER = "Written from the model's card by `python -m docs.build`."


def text(card: Card) -> str:
    """Return the page of a model."""
    train = f"quantize {card.quantization.of}" if card.quantization else f"{card.name} --seed 0"
    usage = f"```sh\nzoo predict image.png --model {card.name}\npython -m train {train}\n```"
    return model_card.text(card, usage, FOOTER)
