"""The adapter between tests and a student's functions, and comparisons that say what is wrong."""

from __future__ import annotations

import copy

import torch

from cpnb.course.marks import WrongAnswer, demand


class Answers:
    """The adapter between tests and a student's notebook: ``ask.outer`` is the student's `outer`.

    Parameters
    ----------
    names : dict
        The notebook's ``globals()``; a function is looked up when it is called.
    """

    def __init__(self, names: dict):
        self._names = names

    def function(self, name: str):
        """The student's function itself, which may change what it is given."""
        found = self._names.get(name)
        demand(callable(found), f"there is no function {name}: did the cell that has it run?")
        return found

    def __getattr__(self, name: str):
        if name.startswith("_"):  # of IPython, which asks how to show this
            raise AttributeError(name)

        def call(*arguments, **options):
            function = self.function(name)
            given = copy.deepcopy((arguments, options))
            try:
                result = function(*given[0], **given[1])
            except NotImplementedError:
                raise WrongAnswer(f"{name} is not answered yet") from None
            if result is None:
                raise WrongAnswer(f"{name} returns nothing: is a return missing?")
            if not _same(given, (arguments, options)):
                raise WrongAnswer(f"{name} changes what it is given; work on a copy")
            return result

        return call


def _same(a, b) -> bool:
    """Whether two arguments have equal tensors in them; of modules, equal weights."""
    if isinstance(a, torch.nn.Module):
        return _same(a.state_dict(), b.state_dict())
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return True


def close(found, expected, within: float = 1e-10, mistakes: dict | None = None, what="the result"):
    """Demand a tensor or a number that is near the expected one.

    Parameters
    ----------
    found, expected : tensor or number
    within : float
        Largest ‖found − expected‖ / ‖expected‖.
    mistakes : dict of str to tensor or number, optional
        What a known mistake would give, by the words that name it.
    what : str
        What was computed, for the message.
    """
    expected = torch.as_tensor(expected).detach()
    if not isinstance(found, torch.Tensor):
        wanted = "a tensor" if expected.ndim else "a number"
        demand(isinstance(found, int | float), f"{what} is of {type(found)}; it should be {wanted}")
        found = torch.as_tensor(found)
    found = found.detach()
    for words, wrong in (mistakes or {}).items():
        demand(not _near(found, torch.as_tensor(wrong), within), words)
    shapes = f"{what} has shape {tuple(found.shape)}; it should be {tuple(expected.shape)}"
    demand(found.shape == expected.shape, shapes)
    demand(bool(torch.isfinite(found.double()).all()), f"{what} has infinite or undefined entries")
    error = _distance(found, expected)
    told = f"{what} is off by a relative {error:.1e}; an error of at most {within:.0e} is expected"
    demand(error <= within, told)


def _distance(found, expected) -> float:
    scale = expected.double().norm().clamp_min(1e-300)
    return float((found.double() - expected.double()).norm() / scale)


def _near(found, wrong, within) -> bool:
    return found.shape == wrong.shape and _distance(found, wrong) <= within
