"""Packages that only some uses need: this library's extras, imported where they are used."""

import importlib
from types import ModuleType


def library(module: str, package: str, need: str, extra: str) -> ModuleType:
    """A module of ``package``, or one sentence on how to get it. ImportError if the module cannot be imported.

    Arguments:
        need: the sentence's start, such as "FID needs".
        extra: the extra of ``nrae-lib`` that has the package.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{need} the package {package}: pip install 'nrae-lib[{extra}]'", name=package) from error
