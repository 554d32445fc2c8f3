"""Losses over the steps of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from qrepro.plots.style import LineStyle, Plot, canvas, finish, line_style, stack

TERMS = ("loss", "class", "code", "box", "quality")


def loss_curves(logs: Mapping[str, pd.DataFrame], smooth: int = 15, terms: Sequence[str] = TERMS) -> Plot:
    """Draw the training loss and its terms against the step: one panel per term, one line per run.

    Args:
        logs: Name of the run -> log, a frame with `step`, `loss` and any of class, code, box, quality.
        smooth: Number of logged steps of the centred running mean; the raw values are drawn faintly behind it.
        terms: Columns to draw, where a log has them.

    Returns:
        The figure; points {run, term, step, value}, the raw values.

    Raises:
        ValueError: If `smooth` is below 1.
    """
    if smooth < 1:
        raise ValueError(f"smooth must be at least 1, got {smooth}")
    terms = [term for term in terms if any(term in log for log in logs.values())]
    frames = []
    with canvas(max(2.7 * len(terms), 4.0), 2.4) as figure:
        axes = figure.subplots(1, max(len(terms), 1), squeeze=False)[0]
        for term, ax in zip(terms, axes, strict=False):
            for index, (name, log) in enumerate(logs.items()):
                if term not in log:
                    continue
                values = log[["step", term]].dropna()
                # a line of one point is none
                style: LineStyle = {**line_style(index), "marker": "" if len(values) > 1 else "o"}
                ax.plot(values["step"], values[term], color=style["color"], alpha=0.2, linewidth=0.8)
                mean = values[term].rolling(smooth, min_periods=1, center=True).mean()
                ax.plot(values["step"], mean, label=name, **style)
                frames.append(pd.DataFrame({"run": name, "term": term, "step": values["step"], "value": values[term]}))
            ax.set_title("total loss" if term == "loss" else f"{term} term")
            ax.set_xlabel("step")
            ax.set_ylim(bottom=0)
        finish(figure)
    return Plot(figure, stack(frames), f"Loss per logged step (faint) and its running mean over {smooth} of them.")


def quality_loss_curves(logs: Mapping[str, pd.DataFrame], term: str = "quality", smooth: int = 15) -> Plot:
    """Draw the loss that supervises the quality estimate, over training: GFLv2 (arXiv 2011.12885) fig. 8.

    Args:
        logs: As for `loss_curves`.
        term: The column with that loss. GFL and GFLv2 supervise the joint score, so theirs is "class" (quality focal
            loss); a separate branch has "quality". Only runs with the same loss of the same target compare.
        smooth: As for `loss_curves`.

    Returns:
        The figure; points {run, term, step, value}.

    Raises:
        ValueError: If no log has values of the term, or `smooth` is below 1.
    """
    if not any(term in log and log[term].notna().any() for log in logs.values()):
        known = sorted({str(name) for log in logs.values() for name in log})
        raise ValueError(f"no log has values of the term {term!r}; columns: {', '.join(known) or 'none'}")
    plot = loss_curves(logs, smooth, [term])
    return Plot(plot.figure, plot.points, f"Loss term {term!r}, which teaches the quality estimate. {plot.caption}")
