"""Figures of the papers and of this suite, each as PNG, SVG and a CSV of its points.

Every function takes arrays or rows and returns a `Plot`; nothing touches pyplot or the global rcParams. Colours are
those of Okabe and Ito (2008), which stay apart for colour-blind readers and, with line styles and markers, in grey.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from analysis.correlation import binned_rows, correlation_rows

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#666666",
)
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, "#000000")
SAMPLE = 10_000  # points drawn per panel, as in fig. 4 of IoU-aware RetinaNet
STYLE: Any = {  # matplotlib types its keys as literals
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "qrepro",  # the same data give the same file
}


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure, the points it shows and what they are.

    figure: of matplotlib.   points: one row per drawn point.   caption: what is drawn, and how it was chosen.
    """

    figure: Figure
    points: pd.DataFrame
    caption: str

    def render(self, kind: str, dpi: int = 200) -> bytes:
        """The figure as a file of `kind`, "png" or "svg"; the same figure gives the same bytes."""
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE):
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            self.figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
        return buffer.getvalue()

    def save(self, stem: str | Path) -> list[Path]:
        """Write `stem`.png, .svg and .csv; returns the three paths."""
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths = [stem.parent / f"{stem.name}.{kind}" for kind in ("png", "svg", "csv")]
        paths[0].write_bytes(self.render("png"))
        paths[1].write_bytes(self.render("svg"))
        self.points.to_csv(paths[2], index=False, lineterminator="\n")
        return paths


def score_vs_iou(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]], sample: int = SAMPLE, seed: int = 0, about: str = ""
) -> Plot:
    """Confidence against IoU_eval, IoU-aware RetinaNet (arXiv 1912.05992) fig. 4: one panel per detector or rule.

    panels: title -> (iou_eval, score), aligned vectors (N,) in [0, 1], one entry per detection.
    sample: points drawn per panel, without replacement; the same `seed` draws the same ones.
    about: where the detections come from (stage, split, rule, score floor), put first in the caption.
    Correlations and the mean line (per 0.05 of IoU) are those of all detections, not of the sample.
    """
    drawn = []

    def draw(ax: Axes, title: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
        iou, score = pair
        keep = _sample(len(iou), sample, seed)
        _cloud(ax, iou[keep], score[keep])
        means = binned_rows(iou, score)  # binned by IoU: here "estimate" is the abscissa
        _mean_line(ax, [row["mean_estimate"] for row in means], [row["mean_iou"] for row in means], "mean score")
        ax.set_title(f"{title}\n{_correlation(iou, score)}", linespacing=1.5)
        drawn.append(pd.DataFrame({"panel": title, "iou_eval": iou[keep], "score": score[keep]}))

    figure = _panels(panels, draw, "IoU with own class (IoU_eval)", "confidence")
    caption = f"{sample:,} detections per panel at most, drawn with seed {seed}; r, ρ, n and the mean are of all."
    return Plot(figure, _stack(drawn), f"{about.strip()} {caption}".strip())


def estimate_vs_iou(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]], sample: int = SAMPLE, seed: int = 0, about: str = ""
) -> Plot:
    """True IoU against the estimate of the detector, with the mean of each 0.05 of the estimate and the diagonal.

    panels: title -> (estimate, iou), aligned vectors (N,) in [0, 1], one entry per positive location.
    sample, seed, about: as in `score_vs_iou`.
    """
    drawn = []

    def draw(ax: Axes, title: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
        estimate, iou = pair
        keep = _sample(len(iou), sample, seed)
        _cloud(ax, estimate[keep], iou[keep])
        ax.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="estimate = IoU")
        means = binned_rows(estimate, iou)
        _mean_line(ax, [row["mean_estimate"] for row in means], [row["mean_iou"] for row in means], "mean IoU")
        ax.set_title(f"{title}\n{_correlation(estimate, iou, bias=True)}", linespacing=1.5)
        drawn.append(pd.DataFrame({"panel": title, "estimate": estimate[keep], "iou": iou[keep]}))

    figure = _panels(panels, draw, "estimated IoU", "true IoU of the decoded box")
    caption = (
        f"{sample:,} positive locations per panel at most, drawn with seed {seed}; r, ρ, bias and means are of all."
    )
    return Plot(figure, _stack(drawn), f"{about.strip()} {caption}".strip())


def ap_vs_alpha(sweeps: Sequence[Sequence[Mapping[str, Any]]], metric: str = "AP", title: str = "") -> Plot:
    """AP against alpha of p^alpha u^(1-alpha): with the estimate, with the true IoU, and by class score alone.

    sweeps: per seed the rows of `oracle.alpha_rows`, metric in percent. Lines are means over seeds, bars the lowest and
        the highest seed. The product p u stands at alpha = 0.5, whose ranking it shares.
    """
    columns = ["seed", "rule", "kind", "alpha", "oracle", metric]
    records = [{**row, "seed": seed} for seed, rows in enumerate(sweeps) for row in rows]
    points = pd.DataFrame(records, columns=columns).rename(columns={"seed": "sweep"})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        ax = figure.subplots()
        baseline = points.loc[points["kind"] == "class", metric].mean()
        if not math.isnan(baseline):
            ax.axhline(baseline, color=GREY, linestyle=(0, (4, 3)), label=f"class score alone: {baseline:.1f}")
        for oracle, colour, marker, name in (
            (False, BLUE, "o", "estimated IoU"),
            (True, RED, "s", "true IoU (oracle)"),
        ):
            mine = points[points["oracle"].astype(bool) == oracle]
            power = mine[mine["kind"] == "power"].groupby("alpha")[metric].agg(["mean", "min", "max"])
            if len(power):
                label = f"{name}: best {power['mean'].max():.1f} at α = {power['mean'].idxmax():g}"
                spread = np.array([power["mean"] - power["min"], power["max"] - power["mean"]])
                ax.errorbar(
                    power.index,
                    power["mean"],
                    spread,
                    color=colour,
                    marker=marker,
                    markersize=4,
                    capsize=2,
                    label=label,
                )
            product = mine.loc[mine["kind"] == "product", metric].mean()
            if not math.isnan(product):
                label = f"{name}, product: {product:.1f}"
                ax.plot(
                    [0.5],
                    [product],
                    color=colour,
                    marker="D",
                    markersize=7,
                    fillstyle="none",
                    linestyle="",
                    label=label,
                )
        ax.set(xlim=(-0.03, 1.03), xlabel="α  (0: quality alone … 1: class score alone)", ylabel=f"{metric} (%)")
        ax.set_title(title)
        ax.margins(y=0.12)
        if len(points):
            figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    seeds = f"mean of {len(sweeps)} seeds, bars from lowest to highest" if len(sweeps) > 1 else "one seed"
    return Plot(figure, points, f"{metric} of one network pass ranked by p^α u^(1-α); {seeds}.")


def loss_curves(logs: Mapping[str, pd.DataFrame], smooth: int = 15) -> Plot:
    """Training loss and its terms against the step: one panel per term, one line per run.

    logs: name of the run -> log with `step`, `loss` and any of class, code, box, quality.
    smooth: logged steps of the centred running mean; the raw values are drawn faintly behind it.
    """
    terms = [t for t in ("loss", "class", "code", "box", "quality") if any(t in log for log in logs.values())]
    rows = []
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(2.7 * len(terms), 4.0), 2.6 + 0.16 * len(logs)), layout="constrained")
        axes = figure.subplots(1, max(len(terms), 1), squeeze=False)[0]
        for term, ax in zip(terms, axes, strict=False):
            for index, (name, log) in enumerate(logs.items()):
                if term not in log:
                    continue
                values = log[["step", term]].dropna()
                style = {"color": CYCLE[index % len(CYCLE)], "linestyle": ("-", "--", ":")[index // len(CYCLE) % 3]}
                ax.plot(values["step"], values[term], color=style["color"], alpha=0.2, linewidth=0.8)
                mean = values[term].rolling(smooth, min_periods=1, center=True).mean()
                ax.plot(values["step"], mean, label=name, **style)
                rows.append(pd.DataFrame({"run": name, "term": term, "step": values["step"], "value": values[term]}))
            ax.set_title("total loss" if term == "loss" else f"{term} term")
            ax.set_xlabel("step")
            ax.set_ylim(bottom=0)
        handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
        if handles:
            figure.legend(handles.values(), handles, loc="outside lower left", ncols=min(len(handles), 2), fontsize=8)
    return Plot(figure, _stack(rows), "Loss per logged step (faint) and its running mean.")


def iou_gradient() -> Plot:
    """Derivative log((1-u)/u) of the IoU loss by its target, IoU-aware RetinaNet eq. 5 and fig. 3: no data."""
    u = np.linspace(0.005, 0.995, 199)
    gradient = np.log((1 - u) / u)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        ax = figure.subplots()
        ax.axhline(0, color="#444444", linewidth=0.8)
        ax.plot(u, gradient, color=BLUE)
        ax.annotate("descent lowers t", (0.22, 2.2), fontsize=8, color=GREY)
        ax.annotate("descent raises t", (0.78, -2.6), ha="right", fontsize=8, color=GREY)
        ax.set(xlim=(0, 1), xlabel="estimated IoU u", ylabel="∂BCE(u, t) / ∂t = log((1-u)/u)")
    return Plot(figure, pd.DataFrame({"u": u, "gradient": gradient}), "Gradient that the target IoU t receives.")


def _panels(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]],
    draw: Callable[[Axes, str, tuple[np.ndarray, np.ndarray]], None],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Square panels over [0, 1] x [0, 1] side by side, at most three in a row, with one legend."""
    if not panels:
        raise ValueError("a figure needs at least one panel")
    columns = min(len(panels), 3)
    lines = math.ceil(len(panels) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.95 * columns + 0.35, 3.35 * lines + 0.3), layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for ax in grid.flat[len(panels) :]:
            ax.remove()
        for ax, (title, (x, y)) in zip(grid.flat, panels.items(), strict=False):
            draw(ax, title, (np.asarray(x, np.float64), np.asarray(y, np.float64)))
            ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=xlabel)
            ax.tick_params(labelbottom=True)
        for ax in grid[:, 0]:
            ax.set_ylabel(ylabel)
        figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _cloud(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Points so faint that density shows; rasterised, or ten thousand of them make the SVG slow."""
    alpha = float(np.clip(900 / max(len(x), 1), 0.08, 0.6))
    ax.scatter(x, y, s=5, color=BLUE, alpha=alpha, linewidths=0, rasterized=True)


def _mean_line(ax: Axes, x: Sequence[float], y: Sequence[float], label: str) -> None:
    """A line that stands out from the cloud by a white edge."""
    ax.plot(x, y, color="white", linewidth=3.6)
    ax.plot(x, y, color=RED, linewidth=1.8, marker="o", markersize=2.5, label=label)


def _correlation(first: np.ndarray, second: np.ndarray, bias: bool = False) -> str:
    """Correlations of a panel in one line."""
    (row,) = correlation_rows(first, second, [(-math.inf, math.inf)])
    text = f"r = {row['pearson']:.2f}, ρ = {row['spearman']:.2f}"
    if bias:
        text += f", bias {row['bias']:+.2f}"
    return f"{text}, n = {row['n']:,}"


def _sample(n: int, sample: int, seed: int) -> np.ndarray:
    """Up to `sample` of n row numbers, in their order; all of them when there are no more."""
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
    return np.arange(n) if n <= sample else np.sort(np.random.default_rng(seed).choice(n, sample, replace=False))


def _stack(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Frames below each other; an empty frame for none."""
    frames = list(frames)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
