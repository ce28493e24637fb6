"""The models that a server answers with, and the workers that all its interfaces share."""

from __future__ import annotations

import sys
from contextlib import suppress

from serve.service.pool import Pool, Runner
from serve.service.settings import Settings
from zoo import registry
from zoo.card import Card
from zoo.errors import BadModel, DeviceUnavailable, ModelNotFound, ZooError
from zoo.model import load


class Service:
    """runners: by the models' full names, in the order of the names. device: where they run. pool: not yet started."""

    def __init__(self, settings: Settings) -> None:
        """Open every model. One of the user's own that is damaged is left out with a message, and so is an int8 model
        on a GPU, which does not compute it as its card says.

        Raises:
            ModelNotFound: the pattern matches none. What `zoo.load` raises, for a shipped model or if none opens.
        """
        entries = registry.scan(settings.models)
        if not entries:
            raise ModelNotFound(f"No model matches {settings.models!r}: `zoo list` shows all models.")
        self.runners: dict[str, Runner] = {}
        problem: ZooError | None = None
        for entry in entries:
            try:
                self.runners[entry.card.name] = Runner(load(entry.card.name, settings.device))
            except (BadModel, DeviceUnavailable) as error:
                own = entry.folder.parent != registry.SHIPPED
                if not (entry.card.quantization if isinstance(error, DeviceUnavailable) else own):
                    raise
                problem = error
                print(f"zoo: {error} It is not served.", file=sys.stderr)
        if problem and not self.runners:
            raise problem
        self.device = next(iter(self.runners.values())).model.device
        self.pool = Pool(self.device, settings.max_queue)
        self._full_names = self._architectures()

    def _architectures(self) -> dict[str, str]:
        """Architecture → full name: the one that the registry means by it, or the first served where that is not."""
        names: dict[str, str] = {}
        for name, runner in self.runners.items():
            names.setdefault(runner.model.card.architecture, name)
        for architecture in names:
            with suppress(ModelNotFound):
                default = registry.find(architecture).card.name
                names[architecture] = default if default in self.runners else names[architecture]
        return names

    @property
    def cards(self) -> list[Card]:
        return [runner.model.card for runner in self.runners.values()]

    def runner(self, name: str) -> Runner:
        """The model of that full name, or an architecture's default. Raises ModelNotFound, with near names."""
        found = self.runners.get(name) or self.runners.get(self._full_names.get(name, ""))
        if found is None:
            raise ModelNotFound(registry.not_found(name, list(self.runners)))
        return found
