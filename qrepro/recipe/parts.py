"""Members of an axis as recipe values: `{kind: max_iou, positive: 0.5}`.

What a kind accepts is read from its constructor: its keyword-only parameters, with their types and defaults. A new
member of an axis therefore needs an entry in that axis's dict and nothing here. One that lives elsewhere is named by
its place, `{kind: "my_package.quality:Entropy"}`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, create_model

from qrepro.records.kinds import Member, lookup, nearest

Measure = Literal["iou", "centerness", "score"]  # of a positive: `qrepro.target.MEASURES`


class Part(BaseModel):
    """A kind and its options.

    The model holds what the recipe says. `check` holds it against the axis and fills in the constructor's defaults,
    which `options` then has too; neither changes what is dumped, hashed or written.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str
    _filled: dict[str, Any] | None = PrivateAttr(None)
    _arguments: dict[str, Any] | None = PrivateAttr(None)
    _distinct: dict[str, Any] | None = PrivateAttr(None)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the constructor as plain data, with its defaults once the part has been checked."""
        return dict(self.model_extra or {}) if self._filled is None else dict(self._filled)

    @property
    def distinct(self) -> dict[str, Any]:
        """Kind and those options of a checked part that differ from the constructor's defaults."""
        return {"kind": self.kind, **(self._distinct or {})}

    def check(self, table: Mapping[str, Callable[..., Any]]) -> None:
        """Hold kind and options against an axis.

        Raises:
            ValueError: an unknown kind, an unknown or missing option, a value of the wrong type.
        """
        options = _options(lookup(table, self.kind))
        try:
            filled = options(**(self.model_extra or {}))
        except ValidationError as error:
            raise ValueError(explain(error, options)) from error
        # JSON form: tuples become lists, so that a recipe equals itself after a round trip through a file.
        self._filled, self._arguments = filled.model_dump(mode="json"), dict(filled)
        known = options.model_fields
        self._distinct = {
            name: value
            for name, value in self._filled.items()
            if known[name].is_required() or known[name].default != getattr(filled, name)
        }

    def bind(self, table: Mapping[str, Callable[..., Member]]) -> Callable[..., Member]:
        """The constructor (or function) with its options filled in, in the types that it declares."""
        if self._arguments is None:
            self.check(table)
        return partial(lookup(table, self.kind), **(self._arguments or {}))

    def build(self, table: Mapping[str, Callable[..., Member]], *injected: Any) -> Member:
        """The part itself; `injected` is what assembly knows and a recipe does not say."""
        return self.bind(table)(*injected)


class HeadPart(Part):
    """A head; shared: one for all levels, or each has its own."""

    shared: bool = True


class LossPart(Part):
    """A loss with its weight in the sum; what else it says about its term is described by `qrepro.objective.Term`."""

    weight: float = 1.0

    def term(self) -> dict[str, Any]:
        """Arguments of its term, beside the loss."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}


class ClassLossPart(LossPart):
    """The loss of class scores."""

    weight_by: Measure | None = None
    score: Literal["class", "joint"] = "class"


class BoxLossPart(LossPart):
    """A loss of encoded or decoded boxes."""

    weight_by: Measure | None = None
    min_normalizer: float = 1.0
    normalize_by_prior: bool = False


class QualityLossPart(LossPart):
    """The loss of the quality estimate."""

    target: Literal["iou", "centerness"] = "iou"
    detach: bool = True


@cache
def _options(constructor: Callable[..., Any]) -> type[BaseModel]:
    """Model of the keyword-only parameters of a class or function."""
    target = constructor.__init__ if inspect.isclass(constructor) else constructor
    hints = get_type_hints(target)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, in one line: where, what came, what is allowed."""
    first = error.errors()[0]
    path = [str(step) for step in first["loc"]]
    where = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key{nearest(path[-1], _fields(model, path[:-1]))}"
    if first["type"] == "missing":
        return f"{where}: missing"
    message = first["msg"].removeprefix("Value error, ")
    came = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"{where}: {message}{came}" if where else message


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the keys that are allowed at `path` below a model."""
    for step in path:
        named = {f.alias or n: f.annotation for n, f in model.model_fields.items()}
        inner = named.get(step)
        if inspect.isclass(inner) and issubclass(inner, BaseModel):
            model = inner
    return [f.alias or n for n, f in model.model_fields.items()]
