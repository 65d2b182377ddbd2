from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agent.validation import explain_validation


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    size: int = 0

    @field_validator("size")
    @classmethod
    def _fits(cls, size: int) -> int:
        if size > 9:
            raise ValueError("9 is the most")
        return size


class Whole(BaseModel):
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]


@pytest.mark.parametrize(
    ("text", "explained"),
    [
        ('{"parts": [{"size": 10}]}', "parts.0.size: 9 is the most"),
        ('{"parts": [{"colour": 1}]}', "parts.0.colour: unknown key"),
        ('{"parts": []}', "parts: Tuple should have at least 1 item after validation, not 0"),
        ("{}", "parts: Field required"),
    ],
)
def test_problems_are_told_by_key_and_once(text: str, explained: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate_json(text)
    assert explain_validation(caught.value) == explained


def test_more_than_three_problems_are_counted() -> None:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate_json('{"parts": [{"a": 1, "b": 2, "c": 3, "d": 4}]}')
    assert explain_validation(caught.value).endswith("parts.0.c: unknown key (and 1 more)")


def test_keys_from_outside_stay_short_and_on_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate_json('{"parts": [{"a\\nb\\u001b[31m": 1}], "%s": 1}' % ("k" * 100_000))
    text = explain_validation(caught.value)
    assert "parts.0.a?b?[31m: unknown key" in text
    assert len(text) < 300
