"""TOML tables as pydantic models, and what pydantic found wrong in words for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)
MAX_KEY, MAX_TEXT = 64, 300  # characters
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")  # of a model, of a dataclass


def explain_validation(error: ValidationError) -> str:
    """The first three problems as ``key: what is wrong``, without the values (they may be secret)."""
    found = error.errors(include_url=False, include_input=False)
    # An array whose items were refused is reported as too short as well.
    inner = {problem["loc"][:end] for problem in found for end in range(len(problem["loc"]))}
    found = [problem for problem in found if problem["type"] != "too_short" or problem["loc"] not in inner]
    problems = []
    for problem in found[:3]:
        where = ".".join(_short(str(part), MAX_KEY) for part in problem["loc"]) or "top level"
        text = (
            "unknown key" if problem["type"] in _UNKNOWN_KEY else problem["msg"].removeprefix("Value error, ")
        )
        problems.append(f"{_short(where, MAX_TEXT)}: {_short(text, MAX_TEXT)}")
    more = len(found) - len(problems)
    return "; ".join(problems) + (f" (and {more} more)" if more > 0 else "")


def _short(text: str, most: int) -> str:
    """One line of printable characters: keys and values come from outside."""
    shown = "".join(char if char.isprintable() else "?" for char in text[: most + 1])
    return shown if len(shown) <= most else f"{shown[:most]}…"


def from_table(kind: type[M], table: Mapping[str, Any]) -> M:
    """A model from a TOML table, strictly: a text is no number. Raises pydantic's ValidationError."""
    # Through JSON, in whose strict mode a text is a path and a list a tuple; TOML's dates are left to fail as texts.
    return kind.model_validate_json(json.dumps(dict(table), default=str))
