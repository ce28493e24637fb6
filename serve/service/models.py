"""The models of a server, and the worker pool that all its interfaces share."""

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
    """Opens the models and creates the pool.

    Attributes:
        runners: by full model name, in the order of the names.
        device: where the models run.
        pool: not started yet.
    """

    def __init__(self, settings: Settings) -> None:
        """Open every model that the settings name.

        Two kinds of models are skipped with a message: a damaged model of the user's own, and an int8 model on a GPU,
        which does not compute what its card states.

        Raises:
            ModelNotFound: no model matches the pattern.
            ZooError: what `zoo.load` raises, for a shipped model, or if no model opens.
        """
        entries = registry.scan(settings.models)
        if not entries:
            raise ModelNotFound(f"No model matches {settings.models!r}. Run `zoo list` to see all models.")
        self.runners: dict[str, Runner] = {}
        problem: ZooError | None = None
        for entry in entries:
            try:
                self.runners[entry.card.name] = Runner(load(entry.card.name, settings.device))
            except (BadModel, DeviceUnavailable) as error:
                is_users = entry.folder.parent != registry.SHIPPED_FOLDER
                skip = entry.card.quantization if isinstance(error, DeviceUnavailable) else is_users
                if not skip:
                    raise
                problem = error
                print(f"zoo: {error} The model is not served.", file=sys.stderr)
        if problem and not self.runners:
            raise problem
        self.device = next(iter(self.runners.values())).model.device
        self.pool = Pool(self.device, settings.max_queue, processes=settings.workers)
        self._default_names = self._find_default_names()

    def _find_default_names(self) -> dict[str, str]:
        """Architecture → full name of its default model, or of the first one served if the default is not."""
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
        """The model of that full name, or an architecture's default. Raises ModelNotFound with similar names."""
        runner = self.runners.get(name) or self.runners.get(self._default_names.get(name, ""))
        if runner is None:
            raise ModelNotFound(registry.not_found(name, list(self.runners)))
        return runner
