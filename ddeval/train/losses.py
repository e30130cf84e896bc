"""Losses: cross-entropy against weighted classes, and its levers, each off by default.

One formula with the levers in it, so that they combine; each alone is the published one.
"""

from torch import Tensor
from torch.nn import functional


def image_losses(
    logits: Tensor,
    targets: Tensor,
    *,
    log_prior: Tensor | None = None,
    logit_adjustment: float = 0.0,
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Loss of each image (B,), not negative.

    sum over classes k of -t_k (1 - p_k)^gamma log p_k, where t are the smoothed targets and p the
    softmax of logits + tau log(prior). With gamma 0 it is cross-entropy; with one-hot targets and
    gamma > 0 the focal loss; tau > 0 is the logit-adjusted loss, whose plain logits then favour
    balanced accuracy.

    Parameters
    ----------
    logits, targets : float tensors (B, K)
        Each row of `targets` sums to 1.
    log_prior : float tensor (K,), optional
        Logarithm of the class shares of the training data; needed where `logit_adjustment` is set.
    logit_adjustment, focal_gamma : float
        tau and gamma.
    label_smoothing : float in [0, 1)
        Share of each target spread evenly over all K classes.

    References
    ----------
    Lin et al. (2017), Focal Loss for Dense Object Detection, arXiv:1708.02002, eq. 4.
    Menon et al. (2021), Long-tail learning via logit adjustment, arXiv:2007.07314, eq. 10.
    """
    if logit_adjustment:
        if log_prior is None:
            raise ValueError("logit_adjustment needs the class shares as log_prior")
        logits = logits + logit_adjustment * log_prior
    if label_smoothing:
        targets = (1 - label_smoothing) * targets + label_smoothing / targets.shape[1]
    log_probs = functional.log_softmax(logits, dim=1)
    terms = targets * log_probs
    if focal_gamma:
        # the floor keeps the gradient of a power below 1 finite where p rounds to 1
        terms = terms * (1 - log_probs.exp()).clamp(min=1e-7) ** focal_gamma
    return -terms.sum(dim=1)
