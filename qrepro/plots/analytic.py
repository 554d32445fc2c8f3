"""Figures that need no data: losses and their gradients, drawn from their formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qrepro.plots.style import BLUE, GREY, SMALL, LineStyle, Plot, canvas, finish, line_style, shades, stack


def iou_gradient() -> Plot:
    """Draw the derivative of the IoU loss by its target, IoU-aware RetinaNet (arXiv 1912.05992) eq. 5 and fig. 3.

    Returns:
        The figure of log((1-u)/u) over the estimated IoU u; points {u, gradient}, gradient in nats.
    """
    u = np.linspace(0.005, 0.995, 199)
    gradient = np.log((1 - u) / u)
    with canvas(4.2, 3.0) as figure:
        ax = figure.subplots()
        ax.axhline(0, color="#444444", linewidth=0.8)
        ax.plot(u, gradient, color=BLUE)
        ax.annotate("descent lowers t", (0.22, 2.2), fontsize=SMALL, color=GREY)
        ax.annotate("descent raises t", (0.78, -2.6), ha="right", fontsize=SMALL, color=GREY)
        ax.set(xlim=(0, 1), xlabel="estimated IoU u", ylabel="∂BCE(u, t) / ∂t = log((1-u)/u)")
        finish(figure)
    return Plot(figure, pd.DataFrame({"u": u, "gradient": gradient}), "Gradient that the target IoU t receives.")


def qfl_curves(label: float = 0.5, betas: Sequence[float] = (0, 1, 2, 2.5, 4)) -> Plot:
    """Draw the quality focal loss against the score, GFL (arXiv 2006.04388) eq. 2, fig. 5a, betas of its table 1c.

        QFL(s) = -|y - s|^beta [(1 - y) log(1 - s) + y log s]

    in nats, over the score s after the sigmoid. The least value is at s = y for every beta: 0, or for beta = 0 (cross
    entropy) the entropy of y.

    Args:
        label: Quality label y in [0, 1].
        betas: Exponents of at least 0, one line each.

    Returns:
        The figure; points {label, beta, score, loss}.

    Raises:
        ValueError: If the label lies outside [0, 1], a beta is negative or there is none.
    """
    if not 0 <= label <= 1:
        raise ValueError(f"label must lie in [0, 1], got {label:g}")
    if not betas or min(betas) < 0:
        raise ValueError(f"betas must be numbers of at least 0, at least one, got {list(betas)}")
    score = np.linspace(0.005, 0.995, 199)
    entropy = -((1 - label) * np.log(1 - score) + label * np.log(score))
    frames = []
    with canvas(4.2, 3.0) as figure:
        ax = figure.subplots()
        for index, beta in enumerate(betas):
            loss = np.abs(label - score) ** beta * entropy
            name = f"β = {beta:g}" + (" (cross entropy)" if beta == 0 else "")
            style: LineStyle = {**line_style(index), "marker": ""}
            ax.plot(score, loss, label=name, **style)
            frames.append(pd.DataFrame({"label": label, "beta": beta, "score": score, "loss": loss}))
        ax.axvline(label, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        ax.set(xlim=(0, 1), xlabel="score σ after the sigmoid", ylabel="quality focal loss (nats)")
        ax.set_ylim(bottom=0)
        finish(figure)
    return Plot(figure, stack(frames), f"Quality focal loss for the quality label y = {label:g} (dotted).")


def perturbation(
    targets: Sequence[float] = (1.5, 2.5, 3.5),
    feature: tuple[float, float] = (1.0, 1.0),
    norm: float = 0.1,
    n: int = 16,
    mass: float = 0.99,
) -> Plot:
    """Draw how far a small disturbance of the feature moves a regressed distance, GFL (arXiv 2006.04388) fig. 10.

    Two linear heads on the same 2-D feature x are fitted to a target y, then x is disturbed by d of norm |d| in every
    direction. The paper gives the targets and |d| = 0.1, but neither x nor the bins nor how the heads were fitted; here
    both have the weights of least norm that fit, where descent from zero ends:

        Dirac delta:  w = y x / |x|^2                     change |y| |x.d| / |x|^2, which grows with the target
        General:      W = log(P) x^T / |x|^2              change |E(softmax(W (x + d))) - E(P)|,  E(P) = sum_i i P_i

    with P over the bins 0 ... n the least of the distribution focal loss (eq. 6), mass (i+1-y) on bin i and mass (y-i)
    on i+1, and the rest, 1 - mass, shared by the other bins: a fit that has not run to convergence. The claim that
    General is insensitive holds for sharp distributions: with a mass of 0.96 the target 1.5 moves more than that of
    Dirac delta, with 0.97 less.

    Args:
        targets: Distances y in cells within [0, n], at least one.
        feature: The feature x, not zero.
        norm: |d| of the disturbance.
        n: Last bin in cells, at least 2.
        mass: Probability of the two bins beside the target, in (0, 1).

    Returns:
        The figure; points {head, target, angle (degrees between d and x), change (cells), norm, feature_norm, n, mass}.

    Raises:
        ValueError: If the feature is zero or a value lies outside its range.
    """
    length = math.hypot(*feature)
    if length == 0:
        raise ValueError("feature must not be zero")
    if not 0 < mass < 1 or n < 2:
        raise ValueError(f"mass must lie in (0, 1) and n be at least 2, got {mass:g} and {n}")
    if not targets or min(targets) < 0 or max(targets) > n:
        raise ValueError(f"targets must lie in [0, {n}], at least one, got {list(targets)}")
    angle = np.linspace(-180, 180, 361)
    along = norm / length * np.cos(np.radians(angle))  # x.d / |x|^2: least-norm weights see no other direction
    bins = np.arange(n + 1)
    frames = []
    with canvas(4.8, 3.2) as figure:
        ax = figure.subplots()
        for head, dashes in (("Dirac delta", "-"), ("General", "--")):
            for target, colour in zip(targets, shades(len(targets)), strict=True):
                if head == "General":
                    probability = _near_target(target, n, mass)
                    tilted = probability ** (1 + along[:, None])
                    change = np.abs(tilted @ bins / tilted.sum(axis=1) - probability @ bins)
                else:
                    change = np.abs(target * along)
                ax.plot(angle, change, linestyle=dashes, color=colour, label=f"{head}, y = {target:g}")
                values = {"head": head, "target": target, "angle": angle, "change": change}
                frames.append(pd.DataFrame({**values, "norm": norm, "feature_norm": length, "n": n, "mass": mass}))
        ax.set(xlim=(-180, 180), xticks=range(-180, 181, 90), ylabel="change of the output (cells)")
        ax.set_xlabel("angle between disturbance and feature (°)")
        ax.set_ylim(bottom=0)
        finish(figure)
    setting = (
        f"Disturbance of norm {norm:g} on a feature of norm {length:.3g}; General with {mass:.3g} of its mass on the"
    )
    return Plot(figure, stack(frames), f"{setting} two bins beside the target y, of bins 0 to {n}.")


def _near_target(target: float, n: int, mass: float) -> NDArray[np.float64]:
    """Distribution (n + 1,) over the bins 0 ... n with `mass` on both neighbours of the target, more on the nearer."""
    left = min(math.floor(target), n - 1)
    probability = np.full(n + 1, (1 - mass) / (n - 1))
    probability[[left, left + 1]] = mass * (left + 1 - target), mass * (target - left)
    return probability
