"""MOON (Li et al. 2021, "Model-Contrastive Federated Learning", arXiv 2103.16257, equation 3). With z a batch's
representation by the net that is trained, z_g by the round's model, z_p by this site's net after its last round, and
sim the cosine:

    loss + mu * mean of - log(exp(sim(z, z_g) / t) / (exp(sim(z, z_g) / t) + exp(sim(z, z_p) / t)))

The representation is what goes into the net's last layer with weights, averaged over space: the paper's nets classify,
and have a projection head there. The two other nets are not trained and are in evaluation mode. In a site's first round
there is no net before it: nothing is added.
"""

from __future__ import annotations

import copy

import torch
from torch.nn.functional import cosine_similarity, softplus

from site_agent.training.strategies.base import Arrays, Leaves, LocalRule, Tensors

PREVIOUS = "previous:"


class _Watched:
    """A net whose representation of the last batch is kept."""

    def __init__(self, net: torch.nn.Module) -> None:
        self._net = net
        self._found = torch.empty(0)
        last = [one for one in net.modules() if any(True for _ in one.parameters(recurse=False))][-1]
        self._hook = last.register_forward_pre_hook(self._take)

    def _take(self, _layer: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        self._found = given[0]

    def represent(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels), float32, of these images."""
        self._net(images)
        return self.represent_last()

    def represent_last(self) -> torch.Tensor:
        """The same of the batch that went through the net last."""
        found = self._found.float()
        return found.flatten(2).mean(2) if found.ndim > 2 else found

    def unwatch(self) -> None:
        self._hook.remove()


class ContrastiveRule(LocalRule):
    """`mu` and `temperature` as in the paper."""

    remembers = True

    def __init__(self, mu: float, temperature: float) -> None:
        self._mu, self._temperature = mu, temperature
        self._trained: _Watched | None = None

    def begin_round(self, net: torch.nn.Module, beside: Arrays, kept: Tensors) -> None:
        if self._trained is not None:
            self._trained.unwatch()
        self._net, self._trained, self._others = net, None, list[_Watched]()
        if not kept:
            return
        before = {name: kept.get(PREVIOUS + name, one) for name, one in net.state_dict().items()}
        for state in (net.state_dict(), before):
            other = copy.deepcopy(net).eval().requires_grad_(False)
            other.load_state_dict(state)
            self._others.append(_Watched(other))
        self._trained = _Watched(net)

    def extra_loss(self, images: torch.Tensor) -> torch.Tensor | None:
        if self._trained is None:
            return None
        own = self._trained.represent_last()
        with torch.no_grad():
            common, previous = (one.represent(images) for one in self._others)
        nearer = cosine_similarity(own, previous) - cosine_similarity(own, common)
        # - log(exp(a) / (exp(a) + exp(b))) is log(1 + exp(b - a)).
        return self._mu * softplus(nearer / self._temperature).mean()

    def end_round(self, steps: int) -> Leaves:
        if self._trained is not None:
            self._trained.unwatch()
            self._trained, self._others = None, []
        return Leaves(kept={PREVIOUS + name: one.detach() for name, one in self._net.state_dict().items()})
