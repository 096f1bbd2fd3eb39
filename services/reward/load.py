"""A ``Reward`` class out of the file or module in which it stands."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from varl.services.reward.place import RewardNotFoundError, parse_place, search_working_directory
from varl.services.serving.plugin import Reward, checked_name


def load_reward(text: str) -> type[Reward]:
    """Import the module and return the class.

    Raises:
        RewardNotFoundError: no such module or class, or the class is no Reward, or it lacks a name or ``score``.
        Exception: whatever the module raises while it is imported.

    """
    place = parse_place(text)
    module = _import_name(place.module) if place.file is None else _import_file(place.file)
    found = getattr(module, place.name, None)
    if found is None:
        raise RewardNotFoundError(f"{place.module} has no class {place.name!r}{_hint(module, place.name)}")
    if not (inspect.isclass(found) and issubclass(found, Reward)):
        raise RewardNotFoundError(
            f"{text}: {place.name} is no subclass of varl.reward.Reward{_hint(module, place.name)}"
        )
    if inspect.isabstract(found):
        raise RewardNotFoundError(f"{text}: {place.name} has no method score(self, samples)")
    try:
        checked_name(found)
    except ValueError as error:
        raise RewardNotFoundError(f"{text}: {error}") from error
    return found


def _import_name(name: str) -> ModuleType:
    search_working_directory()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise RewardNotFoundError(f"there is no module {name!r}: {error}") from error
        raise  # found, but what it imports is missing


def _import_file(path: Path) -> ModuleType:
    """Import a file under its own name, modules beside it being importable from it.

    They come last in the search path, so that they shadow nothing.
    """
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = path.stem if path.stem not in sys.modules else f"varl_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RewardNotFoundError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up
    spec.loader.exec_module(module)
    return module


def _hint(module: ModuleType, name: str) -> str:
    """What was meant, or what rewards there are."""
    rewards = [
        key
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Reward) and value is not Reward
    ]
    close = difflib.get_close_matches(name, rewards, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; its rewards: {', '.join(rewards)}" if rewards else "; it has no reward"
