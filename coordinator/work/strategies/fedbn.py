"""FedBN (Li et al. 2021, "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", arXiv
2102.07623): federated averaging of all but batch normalisation, whose weights and statistics stay at the sites."""

from __future__ import annotations

from coordinator.work.strategies.base import Strategy
from messages.tensors.layout import Manifest, TensorSpec
from messages.tensors.travelling import leave_batch_norms


class FedBN(Strategy):
    """What a site keeps, it keeps itself: the coordinator knows nothing of it."""

    def travelling(self, built: Manifest) -> tuple[TensorSpec, ...]:
        return leave_batch_norms(built.tensors)
