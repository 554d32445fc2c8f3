"""Losses, pure and unreduced, on logits. Only `objective` weights, sums and normalises them.

Positional arguments are tensors; keyword-only arguments are recipe values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from qrepro.boxes import aligned_giou, aligned_iou

Loss = Callable[..., Tensor]


def focal_loss(logit: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss per element (arXiv 1708.02002, eq. 5), p = sigmoid(logit): -alpha_t (1 - p_t)^gamma log p_t.

    logit, target: (..., C), target 0 or 1. Returns (..., C) in nats. The gradient flows through both factors.
    """
    p = logit.sigmoid()
    modulation = (target * (1 - p) + (1 - target) * p) ** gamma
    balance = target * alpha + (1 - target) * (1 - alpha)
    return balance * modulation * F.binary_cross_entropy_with_logits(logit, target, reduction="none")


def smooth_l1_loss(raw: Tensor, code: Tensor, *, beta: float = 0.11) -> Tensor:
    """Smooth L1 (arXiv 1504.08083, eq. 3) with its kink at `beta`: d^2 / (2 beta) below, d - beta / 2 above.

    raw, code: (P, 4) predicted and target box code. Returns (P,), summed over the four numbers.
    """
    return F.smooth_l1_loss(raw, code, beta=beta, reduction="none").sum(-1)


def l1_loss(raw: Tensor, code: Tensor) -> Tensor:
    """Absolute difference of box codes (P, 4), summed over the four numbers: (P,)."""
    return (raw - code).abs().sum(-1)


def giou_loss(box: Tensor, truth: Tensor) -> Tensor:
    """1 - GIoU of decoded and true boxes (P, 4) (arXiv 1902.09630, algorithm 2): (P,) in [0, 2]."""
    return 1 - aligned_giou(box, truth)


def iou_loss(box: Tensor, truth: Tensor, *, log: bool = False) -> Tensor:
    """1 - IoU, or -ln IoU (UnitBox, arXiv 1608.01471) of boxes (P, 4): (P,). The logarithm is cut at IoU 1e-6."""
    iou = aligned_iou(box, truth)
    return -iou.clamp(min=1e-6).log() if log else 1 - iou


def bce_loss(logit: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with a soft target (IoU-aware RetinaNet, arXiv 1912.05992, eq. 3), per element.

    It also differentiates `target` where that carries a gradient: dL/dtarget = -logit = log((1 - u) / u) (eq. 5).
    """
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none")


def l2_loss(logit: Tensor, target: Tensor) -> Tensor:
    """(sigmoid(logit) - target)^2 per element: the L2 alternative of IoU-aware RetinaNet, table 2."""
    return (torch.sigmoid(logit) - target) ** 2


CLASS_LOSSES: dict[str, Loss] = {"focal": focal_loss}
CODE_LOSSES: dict[str, Loss] = {"smooth_l1": smooth_l1_loss, "l1": l1_loss}
BOX_LOSSES: dict[str, Loss] = {"giou": giou_loss, "iou": iou_loss}
QUALITY_LOSSES: dict[str, Loss] = {"bce": bce_loss, "l2": l2_loss}
