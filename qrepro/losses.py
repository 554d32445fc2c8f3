"""Losses, pure and unreduced, on logits. Only `objective` weights, sums and normalises them.

Positional arguments are tensors; keyword-only arguments are recipe values.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from qrepro.boxes import aligned_giou, aligned_iou


class Loss(Protocol):
    """What a member of the four axes of losses offers, its recipe values filled in.

    The dicts below say what it is called with: class logits and class targets (`CLASS_LOSSES`), outputs of a box coder
    and codes (`ENCODING_LOSSES`), decoded boxes and ground truth (`BOX_LOSSES`), quality logits and measures of
    positives (`QUALITY_LOSSES`).
    """

    def __call__(self, output: Tensor, target: Tensor, /) -> Tensor:
        """Loss of each element (class, quality) or of each positive (code, box), unreduced and unweighted.

        Args:
            output: Class logits (B, R, C), or (B, R, C + 1) with a background; quality logits (P,); codes
                (P, channels); or boxes (P, 4).
            target: Class targets (B, R, C), measures (P,), codes (P, 4) or boxes (P, 4). Only a measure may carry a
                gradient.

        Returns:
            Losses of the shape of the class logits, (P,) of the other outputs.
        """


def focal_loss(logit: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss per element (arXiv 1708.02002, eq. 5), p = sigmoid(logit): -alpha_t (1 - p_t)^gamma log p_t.

    The gradient flows through both factors.

    Args:
        logit: (..., C) class scores before the sigmoid.
        target: (..., C), 0 or 1.
        alpha: Weight of positives; negatives have 1 - alpha.
        gamma: Exponent of the modulating factor.

    Returns:
        (..., C) in nats.
    """
    p = logit.sigmoid()
    modulation = (target * (1 - p) + (1 - target) * p) ** gamma
    balance = target * alpha + (1 - target) * (1 - alpha)
    return balance * modulation * F.binary_cross_entropy_with_logits(logit, target, reduction="none")


def quality_focal_loss(logit: Tensor, target: Tensor, *, beta: float = 2.0) -> Tensor:
    """Quality focal loss per element, GFL (arXiv 2006.04388) eq. 2, with s = sigmoid(logit) and a soft target y.

        |y - s|^beta [-(1 - y) log(1 - s) - y log s]

    There is no alpha. The gradient flows through both factors, as in the authors' code.

    Args:
        logit: (..., C) class scores before the sigmoid.
        target: (..., C) in [0, 1]: IoU at the true class, 0 elsewhere.
        beta: Exponent of the modulating factor.

    Returns:
        (..., C) in nats.
    """
    return (target - logit.sigmoid()).abs() ** beta * F.binary_cross_entropy_with_logits(
        logit, target, reduction="none"
    )


def varifocal_loss(
    logit: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
    weighted: bool = True,
    detach: bool = False,
) -> Tensor:
    """Varifocal loss per element, VFNet (arXiv 2008.13367) eq. 2, with p = sigmoid(logit) and a soft target q.

        q > 0: -q [q log p + (1 - q) log(1 - p)]        q = 0: -alpha p^gamma log(1 - p)

    Args:
        logit: (..., C) class scores before the sigmoid.
        target: (..., C) in [0, 1]: IoU at the true class, 0 elsewhere.
        alpha: Weight of negatives.
        gamma: Exponent of the modulating factor of negatives.
        weighted: False leaves out the factor q of the positives.
        detach: Stop the gradient through p^gamma, which the authors' code has.

    Returns:
        (..., C) in nats.
    """
    p = (logit.detach() if detach else logit).sigmoid()
    weight = torch.where(target > 0, target if weighted else 1.0, alpha * p**gamma)
    return weight * F.binary_cross_entropy_with_logits(logit, target, reduction="none")


def softmax_loss(logit: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of a softmax over classes and background (SSD, arXiv 1512.02325, eq. 3), per element: -t log p.

    Args:
        logit: (..., C + 1) before the softmax, the background last.
        target: (..., C); the background has what is missing to 1.

    Returns:
        (..., C + 1) in nats, of which the sum is the cross-entropy.
    """
    background = 1 - target.sum(-1, keepdim=True)
    return -torch.cat([target, background], -1) * logit.log_softmax(-1)


def distribution_focal_loss(raw: Tensor, code: Tensor) -> Tensor:
    """Distribution focal loss, GFL (arXiv 2006.04388) eq. 6, mean over the sides, with P = softmax over bins.

        -[(i + 1 - y) log P_i + (y - i) log P_{i+1}]   for a side at y bins, i <= y < i + 1.

    Args:
        raw: (P, 4 (n + 1)) logits of the bins 0 ... n, side after side.
        code: (P, 4) distances in bins, in [0, n).

    Returns:
        (P,) in nats.
    """
    log_probability = torch.unflatten(raw, -1, (code.shape[-1], -1)).log_softmax(-1)
    lower = code.floor().clamp(0, log_probability.shape[-1] - 2)
    share = code - lower
    index = lower.long()[..., None]
    below, above = log_probability.gather(-1, index)[..., 0], log_probability.gather(-1, index + 1)[..., 0]
    loss: Tensor = -((1 - share) * below + share * above).mean(-1)
    return loss


def generalized_focal_loss(
    log_left: Tensor, log_right: Tensor, target: Tensor, left: float | Tensor, right: float | Tensor, beta: float
) -> Tensor:
    """The general form, GFL (arXiv 2006.04388) eq. 7, of which focal, quality and distribution focal loss are cases.

        |y - (y_l p_l + y_r p_r)|^beta [-(y_r - y) log p_l - (y - y_l) log p_r]

    Focal: y_l, y_r = 0, 1, y in {0, 1}, beta = gamma. Quality: y in [0, 1]. Distribution: y_l, y_r the neighbouring
    bins, beta = 0. No recipe names it: it is for readers, and for tests that hold the cases, which are stable on
    logits, against it.

    Args:
        log_left: (...) log of the probability p_l of the value y_l.
        log_right: (...) log of the probability p_r of the value y_r.
        target: (...) y in [y_l, y_r].
        left: y_l.
        right: y_r.
        beta: Exponent of the modulating factor.

    Returns:
        (...) in nats times the unit of the values.
    """
    estimate = left * log_left.exp() + right * log_right.exp()
    return (target - estimate).abs() ** beta * -((right - target) * log_left + (target - left) * log_right)


def gaussian_loss(raw: Tensor, code: Tensor) -> Tensor:
    """Negative log likelihood of a normal distribution per side, GFL (arXiv 2006.04388) table 5, summed over the sides.

        (x - mean)^2 / (2 s^2) + log(s^2) / 2

    The constant log(2 pi) / 2 is left out, so that the loss can be negative.

    Args:
        raw: (P, 8) the four means, then the four log(s^2).
        code: (P, 4) distances x, in the unit of the means.

    Returns:
        (P,) in nats.
    """
    mean, log_variance = raw.chunk(2, -1)
    return ((code - mean) ** 2 / (2 * log_variance.exp()) + log_variance / 2).sum(-1)


def smooth_l1_loss(raw: Tensor, code: Tensor, *, beta: float = 0.11) -> Tensor:
    """Smooth L1 (arXiv 1504.08083, eq. 3) with its kink at `beta`: d^2 / (2 beta) below, d - beta / 2 above.

    Args:
        raw: (P, 4) predicted box code, or box.
        code: (P, 4) target box code, or box.
        beta: Where the kink is, in the unit of the code.

    Returns:
        (P,), summed over the four numbers.
    """
    return F.smooth_l1_loss(raw, code, beta=beta, reduction="none").sum(-1)


def l1_loss(raw: Tensor, code: Tensor) -> Tensor:
    """Absolute difference (P,) of predicted and target box codes (P, 4), summed over the four numbers."""
    return (raw - code).abs().sum(-1)


def giou_loss(box: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU (P,) in [0, 2] of decoded boxes (P, 4) and their ground truth (P, 4) (arXiv 1902.09630, algorithm 2)."""
    return 1 - aligned_giou(box, target)


def iou_loss(box: Tensor, target: Tensor, *, log: bool = False) -> Tensor:
    """1 - IoU, or -ln IoU (UnitBox, arXiv 1608.01471).

    Args:
        box: (P, 4) decoded boxes.
        target: (P, 4) their ground truth.
        log: Take the logarithm, which is cut at IoU 1e-6.

    Returns:
        (P,) in [0, 1], with `log` in nats.
    """
    iou = aligned_iou(box, target)
    return -iou.clamp(min=1e-6).log() if log else 1 - iou


def bce_loss(logit: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with a soft target (IoU-aware RetinaNet, arXiv 1912.05992, eq. 3), per element.

    It also differentiates `target` where that carries a gradient: dL/dtarget = -logit = log((1 - u) / u) (eq. 5), with
    u = sigmoid(logit).

    Args:
        logit: (...) estimated quality before the sigmoid.
        target: (...) in [0, 1].

    Returns:
        (...) in nats.
    """
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none")


def l2_loss(logit: Tensor, target: Tensor) -> Tensor:
    """Squared error (sigmoid(logit) - target)^2 per element: the L2 alternative of IoU-aware RetinaNet, table 2."""
    return (torch.sigmoid(logit) - target) ** 2


CLASS_LOSSES: dict[str, Loss] = {
    "focal": focal_loss,
    "qfl": quality_focal_loss,
    "vfl": varifocal_loss,
    "softmax": softmax_loss,
}
ENCODING_LOSSES: dict[str, Loss] = {
    "smooth_l1": smooth_l1_loss,
    "l1": l1_loss,
    "dfl": distribution_focal_loss,
    "gaussian": gaussian_loss,
}
BOX_LOSSES: dict[str, Loss] = {"giou": giou_loss, "iou": iou_loss, "smooth_l1": smooth_l1_loss}
QUALITY_LOSSES: dict[str, Loss] = {"bce": bce_loss, "l2": l2_loss}
