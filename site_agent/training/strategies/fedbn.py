"""FedBN (Li et al. 2021, arXiv 2102.07623): batch normalisation's weights and statistics are this site's own. The
session keeps every tensor that does not travel; nothing else is asked."""

from __future__ import annotations

from messages.tensors.layout import TensorSpec
from messages.tensors.travelling import leave_batch_norms
from site_agent.training.strategies.base import LocalRule


class OwnNormsRule(LocalRule):
    """Plain local training, of a net of which a part is the site's own."""

    def travelling(self, built: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return leave_batch_norms(built)
