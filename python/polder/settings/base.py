"""What all configuration models share, and the error that names a file, a key and a remedy."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from polder.model import Rule, parse_name
from polder.settings.quantities import parse_list


class ConfigError(ValueError):
    """A configuration that cannot be used: ``source`` is a file (``line`` in it, if known) or an environment variable.

    A retry does not help.
    """

    def __init__(self, source: str, key: str, why: str, line: int | None = None) -> None:
        place = f"{source}:{line}" if line else source
        super().__init__(f"{place}: {key}: {why}" if key else f"{place}: {why}")
        self.source = source
        self.line = line
        self.key = key
        self.why = why


class Settings(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def _rule(value: Any) -> str:
    return str(Rule.parse(str(value)))


Name = Annotated[str, AfterValidator(parse_name)]
RuleText = Annotated[str, BeforeValidator(_rule)]
Rules = Annotated[tuple[RuleText, ...], BeforeValidator(parse_list)]
Names = Annotated[tuple[Name, ...], BeforeValidator(parse_list)]
Ports = Annotated[tuple[int, ...], BeforeValidator(parse_list)]
