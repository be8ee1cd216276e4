"""Checking what a notebook was started with."""

import ast
import difflib


def check_parameters(namespace, **choices):
    """Stop with one sentence if a notebook was started with an unknown parameter or a wrong value.

    Call it with `globals()` after the parameters cell: papermill itself only warns about an unknown name. What it was
    given stands in the cell it injects, which begins with "# Parameters" and is among IPython's executed inputs (`In`).
    ValueError for an unknown or a missing parameter, or a wrong value, naming the valid choices.

    Arguments:
        namespace: name -> value, the notebook's `globals()`.
        choices: parameter -> what it may be: a tuple of allowed values, a type, or a function of the value that
            returns an error sentence (or raises ValueError) if it is wrong.

    Example:
        >>> method, preset, seeds = "nrae_q", "quick", 3
        >>> check_parameters({"method": method, "preset": preset, "seeds": seeds},
        ...                  method=lambda value: choose_methods(value, ("ae", "nrae_q")),
        ...                  preset=("smoke", "quick", "paper"), seeds=int)
    """
    known = f"The parameters are: {', '.join(choices)}"
    for name in (name for name in _injected(namespace.get("In", ())) if name not in choices):
        close = difflib.get_close_matches(name, choices, n=1)
        hint = f": did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"unknown parameter {name!r}{hint} {known}")
    for name, choice in choices.items():
        if name not in namespace:
            raise ValueError(f"parameter {name!r} is missing from the parameters cell. {known}")
        _check(name, namespace[name], choice)


def _injected(inputs):
    """The names that papermill set."""
    for source in inputs:
        if source.startswith("# Parameters"):
            for node in ast.parse(source).body:
                yield from (target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name))


def _check(name, value, choice):
    if isinstance(choice, type):
        # To Python True is an int, and 1 a good float; to a reader only the second is.
        allowed = (int, float) if choice is float else choice
        if not isinstance(value, allowed) or (isinstance(value, bool) and choice is not bool):
            kind = type(value).__name__
            raise ValueError(f"parameter {name!r} must be {choice.__name__}, got {value!r} ({kind})")
    elif callable(choice):
        try:
            answer = choice(value)
        except ValueError as error:
            answer = str(error)
        if isinstance(answer, str):
            raise ValueError(f"parameter {name!r}: {answer}")
    elif not any(value == allowed and isinstance(value, bool) == isinstance(allowed, bool) for allowed in choice):
        raise ValueError(f"parameter {name!r} is {value!r}; it must be one of: {', '.join(map(repr, choice))}")


def choose_methods(value, available):
    """The methods that a page is asked for, in the order of `available`. ValueError for an unknown name, or none.

    `value` is "all", one name, or several separated by commas ("ae,nrae_q"); `available` are all names of the page.
    """
    available = list(available)
    valid = f"the methods are: {', '.join(available)}, or 'all'"
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text; {valid}")
    names = [name.strip() for name in value.split(",") if name.strip()]
    if "all" in names:
        return available
    for name in (name for name in names if name not in available):
        close = difflib.get_close_matches(name, available, n=1)
        raise ValueError(f"unknown method {name!r}{f', did you mean {close[0]!r}?' if close else ''}; {valid}")
    if not names:
        raise ValueError(f"no method is named; {valid}")
    return [name for name in available if name in names]
