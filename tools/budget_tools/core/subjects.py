"""Subjects, which spend: the subject of this server, narrowed by the levels that a call names."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.scopes import LEVEL_VALUE, LEVELS, derive_scopes

RUN_ID = "run_id"
"""The dimension that names a run (Cycles v0.1.26, per-run quotas)."""

MAX_DIMENSIONS = 16
"""Maximum number of dimensions of a subject (Cycles v0, Subject)."""


class SubjectArgument(BaseModel):
    """Levels that narrow whose budget is drawn on; omitted ones stay as this server is configured."""

    model_config = ConfigDict(extra="forbid", strict=True)

    workspace: str = ""
    app: str = ""
    workflow: str = ""
    agent: str = ""
    toolset: str = ""
    dimensions: dict[str, str] = Field(default_factory=dict)
    """Free labels for reports; they do not affect which budget pays."""


WhoseBudget = Annotated[
    SubjectArgument | None,
    WithJsonSchema(
        {
            "type": "object",
            "description": f"Whose budget, else the server's: {{{', '.join(SubjectArgument.model_fields)}: {{}}}}",
        }
    ),
]
"""A tool's ``subject`` argument; several tools share its schema, so it describes its levels in words."""


class Subject:
    """A complete protocol subject: it always names the tenant, without which no real authority finds a budget.

    Args:
        levels: the values of its levels; an empty one counts as absent.
        dimensions: free labels.
        is_fixed: whether a call may only add levels below its deepest one. A level put in between, or another value,
            would lead away from the budgets of the levels below it.
    """

    def __init__(
        self, levels: Mapping[str, str], dimensions: Mapping[str, str] | None = None, *, is_fixed: bool = False
    ) -> None:
        self.levels = {level: levels[level] for level in LEVELS if levels.get(level)}
        self.dimensions = dict(dimensions or {})
        self._is_fixed = is_fixed
        assert "tenant" in self.levels, "a subject always names its tenant"

    @property
    def tenant(self) -> str:
        """The isolation boundary that everything below belongs to."""
        return self.levels["tenant"]

    def narrowed(self, argument: SubjectArgument | None) -> "Subject":
        """Return this subject with a call's own levels applied.

        Raises:
            InvalidArgumentError: a level holds characters that a scope path cannot, or this caller may not choose it.
        """
        if argument is None:
            return self
        given = argument.model_dump(exclude={"dimensions"}, exclude_defaults=True)
        for level, value in given.items():
            if not LEVEL_VALUE.fullmatch(value):
                raise InvalidArgumentError(
                    f"subject.{level} must be 1 to 128 letters, digits, '_', '.' or '-': correct it or leave it out."
                )
            if self._is_fixed and self._fixes(level) and value != self.levels.get(level):
                raise InvalidArgumentError(
                    f"subject.{level} is not yours to choose: leave it out; this client spends as {self} and below."
                )
        return Subject({**self.levels, **given}, {**self.dimensions, **argument.dimensions})

    def reaches(self, other: "Subject") -> bool:
        """Return whether a call of this subject may spend as the other."""
        if not self._is_fixed:
            return True
        return all(other.levels.get(level) == self.levels.get(level) for level in LEVELS if self._fixes(level))

    def _fixes(self, level: str) -> bool:
        return LEVELS.index(level) <= max(LEVELS.index(own) for own in self.levels)

    def in_run(self, run_id: str) -> "Subject":
        """Return this subject with the run that spends, by which authorities may count calls; a named run stays."""
        if RUN_ID in self.dimensions or len(self.dimensions) >= MAX_DIMENSIONS:
            return self
        return Subject(self.levels, {**self.dimensions, RUN_ID: run_id})

    def __str__(self) -> str:
        return derive_scopes(self.levels)[-1]

    def wire(self) -> dict[str, Any]:
        """Return the protocol's Subject."""
        return {**self.levels, **({"dimensions": self.dimensions} if self.dimensions else {})}

    def related_balances(self, balances: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the balances that spending by this subject draws on, and those within its scope."""
        scopes = derive_scopes(self.levels)
        return [
            row for row in balances if row["scope_path"] in scopes or row["scope_path"].startswith(f"{scopes[-1]}/")
        ]

    def own_balances(self, balances: Iterable[Mapping[str, Any]], unit: str) -> list[Mapping[str, Any]]:
        """Return the balances that spending by this subject in this unit draws on."""
        scopes = set(derive_scopes(self.levels))
        return [row for row in balances if row["scope_path"] in scopes and row["remaining"]["unit"] == unit]
