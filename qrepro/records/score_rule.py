"""Score rules: from class score p and quality estimate u to the score S that ranks the boxes.

A rule is a fusion of p and u and, perhaps, an oracle that first puts ground truth in the place of a prediction. A
recipe says it as it says any other part, `score: {kind: power, alpha: 0.5}`; people type and files carry its short
name, `power-0.5`. Both are read here and nowhere else.

Fusions work on logarithms, so that neither a product nor a power underflows, and on any array that has `+` and `*`:
numpy, pandas and torch alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from qrepro.records.kinds import kind_of, lookup

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike


@runtime_checkable
class Fusion(Protocol):
    """How class score and quality become one score; a frozen dataclass whose fields are its recipe values.

    It must not fall when p or u rises: what is known of candidates that were not stored follows from that.

    Attributes:
        uses_quality: whether S depends on u.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def uses_quality(self) -> bool:
        """Whether S depends on u."""
        ...

    def __call__(self, log_class: Any, log_quality: Any) -> Any:
        """Log S of log p and log u, which broadcast; log u may be None where `uses_quality` is false."""
        ...


@dataclass(frozen=True)
class ClassScore:
    """S = p: the class score alone."""

    uses_quality: ClassVar[bool] = False

    def __call__(self, log_class: Any, log_quality: Any = None) -> Any:
        """Log S."""
        return log_class


@dataclass(frozen=True)
class Product:
    """S = p u: ATSS and FCOS with centerness, the joint score of GFLv2 (arXiv 2011.12885, eq. 3)."""

    uses_quality: ClassVar[bool] = True

    def __call__(self, log_class: Any, log_quality: Any) -> Any:
        """Log S."""
        return log_class + log_quality


@dataclass(frozen=True)
class Power:
    """S = p^alpha u^(1 - alpha): IoU-aware RetinaNet (arXiv 1912.05992, eq. 7).

    Attributes:
        alpha: weight of the class score, in [0, 1].
    """

    alpha: float

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, int | float) or not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha {_text(self.alpha)}: must be a number in [0, 1]")

    @property
    def uses_quality(self) -> bool:
        """Whether S depends on u."""
        return self.alpha < 1

    def __call__(self, log_class: Any, log_quality: Any) -> Any:
        """Log S."""
        if self.alpha == 1:  # 0 * -inf is undefined, in both of these cases
            return log_class
        return self.alpha * log_class + (1 - self.alpha) * log_quality if self.alpha else log_quality


FUSIONS: dict[str, type[Fusion]] = {"class": ClassScore, "product": Product, "power": Power}
ORACLES = ("iou", "centerness", "box", "class_iou", "class")


@dataclass(frozen=True)
class Oracle:
    """Ground truth in the place of one output, before scores are fused (VFNet, arXiv 2008.13367, table 1).

    Attributes:
        what: `iou`: quality becomes the IoU of the decoded box with the ground truth of its location; `centerness`:
            that of the prior's centre in this ground truth (FCOS, arXiv 1904.01355, eq. 3); `box`: the decoded box
            becomes the ground truth; `class`: the score of its class becomes 1; `class_iou`: it becomes the IoU.
        where: `positives`: the locations that the training assigner matches, with the ground truth it gives them;
            `nearest`: all whose decoded box overlaps a ground truth, with the one it overlaps most, of whatever class.
            With `iou` at `nearest` this is the oracle of IoU-aware RetinaNet (IoU_truth); boxes that overlap no
            ground truth then have quality 0.
        others: `keep`: what is not replaced stays as predicted; `zero`: its scores become 0, both those of other
            locations and, where a class score was replaced, those of the other classes there.
    """

    what: str = "iou"
    where: str = "nearest"
    others: str = "keep"

    def __post_init__(self) -> None:
        for value, allowed in ((self.what, ORACLES), (self.where, ("nearest", "positives")), (self.others, _OTHERS)):
            if value not in allowed:
                raise ValueError(f"oracle {value!r}: allowed are {', '.join(allowed)}")

    @property
    def name(self) -> str:
        """`oracle`, with what differs from the oracle of IoU-aware RetinaNet."""
        what = "" if self.what == "iou" else f"-{self.what}"
        where = "" if self.where == _usual_place(self.what) else f"@{self.where}"
        return f"oracle{what}{where}{'+zero' if self.others == 'zero' else ''}"

    @property
    def replaces_quality(self) -> bool:
        """Whether ground truth gives the quality."""
        return self.what in ("iou", "centerness")

    @property
    def reaches_all(self) -> bool:
        """Whether no location keeps its predicted quality."""
        return self.replaces_quality and (self.where == "nearest" or self.others == "zero")


_OTHERS = ("keep", "zero")
_NAME = re.compile(
    rf"(?:(?P<oracle>oracle)(?:-(?P<what>{'|'.join(ORACLES)}))?(?:@(?P<where>nearest|positives))?(?P<zero>\+zero)?-)?"
    r"(?P<kind>[A-Za-z_][\w.]*(?::\w+)?)(?:-(?P<value>\d*\.?\d+(?:e-?\d+)?))?(?P<options>(?:,\w+=[^,=]+)*)",
    re.ASCII,
)


def _usual_place(what: str) -> str:
    """Where an oracle acts unless its name says otherwise: as in its own paper."""
    return "nearest" if what == "iou" else "positives"


@dataclass(frozen=True)
class Rule:
    """How boxes are ranked: a fusion of class score and quality, of which an oracle may replace a part first.

    Two rules are equal where they mean the same: `power-1` and `power-1.0` are, `product` and `power-0.5` are not,
    although they order boxes alike, because a score threshold tells them apart.
    """

    fusion: Fusion = ClassScore()
    oracle: Oracle | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.fusion, Fusion):
            raise ValueError(f"score rule: {self.fusion!r} is no fusion; Rule.parse reads a name")
        if self.oracle is not None and not isinstance(self.oracle, Oracle):
            raise ValueError(f"score rule: {self.oracle!r} is no oracle, such as Oracle('iou')")
        if isinstance(self.fusion, ClassScore) and self.oracle and self.oracle.replaces_quality:
            raise ValueError("the class score alone has no quality to replace")

    @classmethod
    def parse(cls, name: str) -> Rule:
        """The rule of a short name.

        `class`, `product`, `power-0.5`, `my_package.rules:Sum` or, with values, `my_package.rules:Sum,weight=0.3`; each
        also behind an oracle, `oracle[-WHAT][@WHERE][+zero]-`: `oracle-power-0.2`, `oracle-box-product`,
        `oracle-iou@positives-product`, `oracle-class@nearest+zero-class`.

        Raises:
            ValueError: any other text, or values that the fusion refuses.
        """
        match = _NAME.fullmatch(name)
        if not match or (":" not in match["kind"] and match["kind"] not in FUSIONS):
            raise ValueError(
                f"score rule {name!r}: allowed are class, product, power-ALPHA, module:Class, each also behind "
                f"oracle[-WHAT][@WHERE][+zero]- with WHAT one of {', '.join(ORACLES)} and WHERE nearest or positives"
            )
        values: dict[str, Any] = {}
        if match["value"]:
            values[""] = _number(match["value"])
        for part in match["options"].split(",")[1:]:
            key, _, text = part.partition("=")
            if key in values:
                raise ValueError(f"score rule {name!r}: {key} is given twice")
            values[key] = _number(text)
        oracle = None
        if match["oracle"]:
            what = match["what"] or "iou"
            oracle = Oracle(what, match["where"] or _usual_place(what), "zero" if match["zero"] else "keep")
        try:
            return cls(_fusion(match["kind"], values), oracle)
        except ValueError as error:
            raise ValueError(f"score rule {name!r}: {error}") from error

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Rule:
        """The rule of recipe values, `{kind: power, alpha: 0.5}`; `oracle: {what, where, others}` may be among them."""
        if not isinstance(values, Mapping):
            raise ValueError(f"score: {values!r} is neither a mapping nor the name of a rule")
        options = dict(values)
        kind, oracle = options.pop("kind", None), options.pop("oracle", None)
        if not isinstance(kind, str):
            raise ValueError(f"score: needs a kind, one of {', '.join(FUSIONS)} or module:Class")
        if oracle and not (isinstance(oracle, Mapping) and set(oracle) <= {"what", "where", "others"}):
            raise ValueError(f"score.oracle: needs a mapping of what, where and others, got {oracle!r}")
        return cls(_fusion(kind, options), Oracle(**oracle) if oracle else None)

    @property
    def kind(self) -> str:
        """What a recipe calls the fusion."""
        return kind_of(FUSIONS, type(self.fusion))

    @property
    def options(self) -> dict[str, Any]:
        """The recipe values of the fusion."""
        return {field.name: getattr(self.fusion, field.name) for field in fields(self.fusion)}

    @property
    def values(self) -> dict[str, Any]:
        """The inverse of `of`."""
        oracle = {"oracle": vars(self.oracle)} if self.oracle else {}
        return {"kind": self.kind, **self.options, **oracle}

    @property
    def name(self) -> str:
        """The inverse of `parse`."""
        options = self.options
        if len(options) == 1 and all(isinstance(value, int | float) for value in options.values()):
            suffix = "".join(f"-{_text(value)}" for value in options.values())
        else:
            suffix = "".join(f",{key}={_text(value)}" for key, value in options.items())
        own = f"{self.kind}{suffix}"
        return f"{self.oracle.name}-{own}" if self.oracle else own

    @property
    def file_stem(self) -> str:
        """The name as part of a file name on any system."""
        return self.name.replace(":", "~")

    @property
    def needs_estimate(self) -> bool:
        """Whether any location is ranked by a predicted quality."""
        return self.fusion.uses_quality and not (self.oracle is not None and self.oracle.reaches_all)

    def score(self, class_score: ArrayLike, quality: ArrayLike) -> np.ndarray:
        """Scores S (N,) of class scores (N,) and qualities (N,) in [0, 1]; NaN where a quality that is needed is NaN.

        Raises:
            ValueError: the rule has an oracle, whose score is not a prediction.
        """
        import numpy as np  # not above: who reads a recipe needs its rule, and waits for no arrays

        if self.oracle:
            raise ValueError(f"score rule {self.name}: an oracle's score is not a prediction")
        with np.errstate(divide="ignore"):
            logs = [np.log(np.asarray(values, np.float64)) for values in (class_score, quality)]
        return np.asarray(np.exp(self.fusion(*logs)))


def find_rule(names: Iterable[str], rule: Rule | str) -> str | None:
    """The name among several that means a rule, however it is spelt; None where there is none."""
    known, wanted = list(names), Rule.parse(rule) if isinstance(rule, str) else rule
    if wanted.name in known:
        return wanted.name
    # classes of others may not be importable here, and their names are always written by us
    return next((name for name in known if ":" not in name and Rule.parse(name) == wanted), None)


def fused_scores(boxes: Mapping[str, Any] | pd.DataFrame, rule: str) -> np.ndarray:
    """Scores (N,) of boxes with columns class_score and quality by the rule of a name; see `Rule.score`."""
    return Rule.parse(rule).score(boxes["class_score"], boxes["quality"])


def _fusion(kind: str, values: Mapping[str, Any]) -> Fusion:
    """The fusion of a kind with its values; the key "" stands for the one field that a fusion has."""
    member = lookup(FUSIONS, kind)
    if not is_dataclass(member):
        raise ValueError(f"{kind}: a fusion is a frozen dataclass, see qrepro.records.score_rule.Fusion")
    known = [field.name for field in fields(member)]
    given = dict(values)
    if "" in given:
        if len(known) != 1:
            takes = f"{len(known)} values by name: {', '.join(known)}" if known else "no value"
            raise ValueError(f"{kind} takes {takes}; got one without a name")
        if known[0] in given:
            raise ValueError(f"{known[0]} is given twice")
        given[known[0]] = given.pop("")
    needed = [f.name for f in fields(member) if f.default is MISSING and f.default_factory is MISSING]
    if wrong := sorted(set(given) - set(known)):
        raise ValueError(f"{kind}: {wrong[0]!r} is unknown, allowed: {', '.join(known) or 'nothing'}")
    if missing := [name for name in needed if name not in given]:
        example = f"{kind}-0.5" if len(known) == 1 else f"{kind},{missing[0]}=0.5"
        raise ValueError(f"{kind} needs {', '.join(missing)}, such as {example}")
    fusion = member(**given)
    if not isinstance(fusion, Fusion):
        raise ValueError(f"{kind} has no `uses_quality` or cannot be called with log p and log u")
    if kind not in FUSIONS:
        _probe(kind, fusion)
    return fusion


def _probe(kind: str, fusion: Fusion) -> None:
    """Refuse what is no fusion by its values at a few points: see `Fusion`.

    Raises:
        ValueError: a value that a name cannot carry, a call that fails on arrays, or scores of another shape, that are
            no probability, or that fall where p or u rises.
    """
    import numpy as np

    for field in fields(fusion):
        if not re.fullmatch(r"[^,=]+", _text(value := getattr(fusion, field.name))) or isinstance(value, list | tuple):
            raise ValueError(f"{kind}: {field.name} is {value!r}; a rule's name can carry numbers and words")
    steps = np.log(np.array([0.02, 0.3, 0.7, 0.98]))
    try:
        own = np.asarray(fusion(steps[None, :], steps[:, None]), np.float64)
    except Exception as error:
        raise ValueError(f"{kind}: cannot be called with arrays log p (1, 4) and log u (4, 1): {error}") from None
    if own.shape not in ((4, 4), (1, 4), (4, 1)):
        raise ValueError(f"{kind}: of arrays log p (1, 4) and log u (4, 1) it makes one of shape {own.shape}")
    scores = np.broadcast_to(own, (4, 4))
    if np.isnan(scores).any() or scores.max() > 0:
        raise ValueError(f"{kind}: scores must lie in [0, 1], their logarithms at or below 0")
    if (np.diff(scores, axis=0) < 0).any() or (np.diff(scores, axis=1) < 0).any():
        raise ValueError(f"{kind}: the score must not fall when p or u rises")


def _text(value: Any) -> str:
    """A value as a rule's name has it: numbers to twelve digits, so that two alphas do not share a name."""
    return f"{value:.12g}" if isinstance(value, int | float) else str(value)


def _number(text: str) -> Any:
    """A value of a rule's name: a number where it is one."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
