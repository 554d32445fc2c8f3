"""Members of an axis as recipe values: `{kind: max_iou, positive: 0.5}`.

What a kind accepts is read from its constructor: its keyword-only parameters, with their types and defaults. A new
member of an axis therefore needs an entry in that axis's dict and nothing here. One that lives elsewhere is named by
its place, `{kind: "my_package.quality:Entropy"}`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, create_model

Measure = Literal["iou", "centerness", "score"]  # of a positive: `qrepro.target.MEASURES`


class Part(BaseModel):
    """A kind and its options; options that the recipe leaves out are filled in with the constructor's defaults."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the constructor."""
        return dict(self.model_extra or {})

    def bind(self, table: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
        """The constructor (or function) with its options filled in, in the types that it declares."""
        constructor = lookup(table, self.kind)
        return partial(constructor, **dict(_options(constructor)(**self.options)))

    def build(self, table: Mapping[str, Callable[..., Any]], *injected: Any) -> Any:
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
    """The loss of class scores; `by` weighs positives by a measure of theirs."""

    by: Measure | None = None
    score: Literal["class", "joint"] = "class"


class BoxLossPart(LossPart):
    """A loss of codes or boxes; `by` weighs positives by a measure of theirs, the sum of which is at least `floor`."""

    by: Measure | None = None
    floor: float = 1.0
    unit: Literal["pixel", "side"] = "pixel"


class QualityLossPart(LossPart):
    """A loss of the quality estimate; `detach` cuts the gradient through its target, the measure it is `towards`."""

    towards: Literal["iou", "centerness"] = "iou"
    detach: bool = True


def member(table: Mapping[str, Callable[..., Any]]) -> AfterValidator:
    """Validator of a `Part` that must be one of `table`."""

    def check(part: Part) -> Part:
        options = _options(lookup(table, part.kind))
        try:
            filled = options(**part.options)
        except ValidationError as error:
            raise ValueError(explain(error, options)) from error
        # JSON form: tuples become lists, so that a recipe equals itself after a round trip through a file.
        return type(part).model_validate({**part.model_dump(), **filled.model_dump(mode="json")})

    return AfterValidator(check)


def lookup(table: Mapping[str, Callable[..., Any]], kind: str) -> Any:
    """The member of an axis that a kind names; raises `ValueError` for any other.

    kind: one of the table, or `module:name` of an installed package or of the current folder.
    """
    module, colon, name = kind.partition(":")
    if not colon:
        if kind not in table:
            raise ValueError(f"kind {kind!r} is unknown{nearest(kind, table)}")
        return table[kind]
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a command of an installed package does not look there by itself
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"kind {kind!r}: cannot be imported from {here} or an installed package: {error}") from error


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


def nearest(word: str, allowed: Iterable[str]) -> str:
    """`: did you mean "gamma"? (allowed: ...)` for a word that is none of `allowed`."""
    names = sorted(allowed)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f": did you mean {close[0]!r}?" if close else ":"
    return f"{hint} (allowed: {', '.join(names) or 'nothing'})"


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
