"""Packages that only some uses need: this library's extras, imported where they are used."""

import importlib
from types import ModuleType


def library(module: str, package: str, need: str, extra: str) -> ModuleType:
    """A module of ``package``; where it cannot be imported, an ImportError that begins with the ``need``, such as "FID
    needs", and names the ``extra`` of ``nrae-lib`` that has the package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{need} the package {package}: pip install 'nrae-lib[{extra}]'", name=package) from error
