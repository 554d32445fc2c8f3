"""Class score and quality as one score, in logarithms: the same fusion ranks boxes and is trained (GFLv2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qrepro.records.score_rule import Fusion, Product

PRODUCT = Product()


def fuse(log_class: Tensor, log_quality: Tensor | None, fusion: Fusion) -> Tensor:
    """Log of the fused score.

    Args:
        log_class: (..., C) log of the class scores.
        log_quality: (..., 1) log of the quality, -inf where it is 0; None of a detector without an estimate.
        fusion: how the two become one score.

    Returns:
        (..., C), in the shape of the class scores.

    Raises:
        ValueError: the fusion needs a quality and there is none.
    """
    if fusion.uses_quality and log_quality is None:
        raise ValueError(f"score {fusion}: needs a quality estimate, this detector has none (quality: none)")
    fused: Tensor = fusion(log_class, log_quality)
    return fused.expand_as(log_class)


def joint_logit(class_logit: Tensor, quality_logit: Tensor) -> Tensor:
    """The logit of the joint score J = C I, so that any loss on logits supervises it (GFLv2, arXiv 2011.12885, eq. 3).

    J is fused as it is in ranking; log(1 - J) = log((1 - C) + C (1 - I)) comes from logarithms too, because neither a
    sigmoid of J nor the logarithm of a product stays finite far out.

    Args:
        class_logit: (B, R, C), of which C is the sigmoid.
        quality_logit: (B, R), of which I is the sigmoid.

    Returns:
        (B, R, C), finite with finite gradients however far the logits go. The gradient reaches both.
    """
    quality_logit = quality_logit[..., None]
    log_class, log_quality = F.logsigmoid(class_logit), F.logsigmoid(quality_logit)
    log_miss = torch.logaddexp(F.logsigmoid(-class_logit), log_class + F.logsigmoid(-quality_logit))
    return fuse(log_class, log_quality, PRODUCT) - log_miss
