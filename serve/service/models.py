"""The models of a server process, and the worker pool that all its interfaces share.

The models are one dictionary that is never changed, only replaced. A request takes its model from it once, so it is
answered by that model whatever is loaded or unloaded meanwhile. A model is freed with its last request.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from serve.service.pool import Pool, Runner
from serve.service.settings import Settings
from zoo import registry
from zoo.card import Card
from zoo.errors import BadModel, DeviceUnavailable, ModelNotFound, ZooError
from zoo.loading import load


class Service:
    """The models and the pool.

    Attributes:
        device: where the models run.
        pool: not started yet.
    """

    def __init__(self, settings: Settings, runners: dict[str, Runner] | None = None) -> None:
        """Args:
            runners: the models; by default, those that the settings name are opened.
        Raises:
            ModelNotFound, ZooError: as `open_models`.
        """
        self.replace(open_models(settings) if runners is None else runners)
        devices = {runner.model.device for runner in self.runners.values()}
        self.device = devices.pop() if devices else "cpu"
        self.pool = Pool(self.device, settings.max_queue, processes=settings.workers)

    def replace(self, runners: dict[str, Runner]) -> None:
        """Serve these models from now on. Requests in progress keep theirs."""
        runners = dict(sorted(runners.items()))
        self._served = runners, find_default_names(runners)  # one assignment: other threads are reading

    @property
    def runners(self) -> dict[str, Runner]:
        """By full model name, in the order of the names. Never changed, only replaced."""
        return self._served[0]

    @property
    def cards(self) -> list[Card]:
        return [runner.model.card for runner in self.runners.values()]

    def runner(self, name: str) -> Runner:
        """The model of that full name, or an architecture's default. Raises ModelNotFound with similar names."""
        runners, default_names = self._served
        runner = runners.get(name) or runners.get(default_names.get(name, ""))
        if runner is None:
            raise ModelNotFound(registry.not_found(name, list(runners)))
        return runner


def find_default_names(runners: dict[str, Runner]) -> dict[str, str]:
    """Architecture → full name of its default model, or of the first one served if the default is not."""
    names: dict[str, str] = {}
    for name, runner in runners.items():
        names.setdefault(runner.model.card.architecture, name)
    for architecture in names:
        with suppress(ModelNotFound):
            default = registry.find(architecture).card.name
            names[architecture] = default if default in runners else names[architecture]
    return names


def open_models(settings: Settings) -> dict[str, Runner]:
    """Open every model that the settings name.

    Two kinds of models are skipped with a message: a damaged model of the user's own, and an int8 model on a GPU, which
    does not compute what its card states.

    Raises:
        ModelNotFound: no model matches the pattern.
        ZooError: what `zoo.load` raises, for a shipped model, or if no model opens.
    """
    entries = registry.scan(settings.models)
    if not entries:
        raise ModelNotFound(f"No model matches {settings.models!r}. Run `zoo list` to see all models.")
    runners: dict[str, Runner] = {}
    problem: ZooError | None = None
    for entry in entries:
        try:
            runners[entry.card.name] = Runner(load(entry.card.name, settings.device))
        except (BadModel, DeviceUnavailable) as error:
            is_users = entry.folder.parent != registry.SHIPPED_FOLDER
            skip = entry.card.quantization if isinstance(error, DeviceUnavailable) else is_users
            if not skip:
                raise
            problem = error
            print(f"zoo: {error} The model is not served.", file=sys.stderr)
    if problem and not runners:
        raise problem
    return runners
