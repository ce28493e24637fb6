"""The models that a server answers with, and the workers that all its interfaces share."""

from __future__ import annotations

from serve.pool import Pool
from serve.runner import Runner
from serve.settings import Settings
from zoo import registry
from zoo.card import Card
from zoo.errors import ModelNotFound
from zoo.predictor import load


class Service:
    """runners: by the models' full names, in the order of the names. device: where they run. pool: not yet started."""

    def __init__(self, settings: Settings) -> None:
        """Opens every model. Raises ModelNotFound where the pattern matches none, and what `zoo.load` raises."""
        names = [entry.card.name for entry in registry.scan(settings.models)]
        if not names:
            raise ModelNotFound(f"No model matches {settings.models!r}: `zoo list` shows all models.")
        self.runners = {name: Runner(load(name, settings.device)) for name in names}
        self.device = next(iter(self.runners.values())).model.device
        self.pool = Pool(self.device, settings.max_queue)
        self._called: dict[str, str] = {}
        for name, runner in self.runners.items():  # a bare architecture is its default recipe, or its only one
            if runner.model.card.default or runner.model.card.architecture not in self._called:
                self._called[runner.model.card.architecture] = name

    @property
    def cards(self) -> list[Card]:
        return [runner.model.card for runner in self.runners.values()]

    def runner(self, name: str) -> Runner:
        """The model of that full name, or an architecture's default. Raises ModelNotFound, with near names."""
        found = self.runners.get(name) or self.runners.get(self._called.get(name, ""))
        if found is None:
            raise ModelNotFound(registry.not_found(name, list(self.runners)))
        return found
