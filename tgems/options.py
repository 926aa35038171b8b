"""Errors on unknown keyword arguments that suggest the nearest one."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tgems.errors import nearest

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def names_nearest_option(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a function so that an unknown keyword argument is a `TypeError` that suggests the nearest one."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        for name in kwargs:
            if name not in known:
                options = [option for option in known if option not in ("self", "cls")]
                raise TypeError(f"{function.__name__}() has no option {name!r}; {nearest(name, options)}")
        return function(*args, **kwargs)

    return checked
