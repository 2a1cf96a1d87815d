"""`python -m deploy.privacy.inversion`: images out of updates, by inverting gradients (Geiping et al. 2020).

The attacker has the model, the net and the update. He looks for the image whose gradient points as the update does
(cosine), and prefers smooth ones (total variation). He gets more here than he would have: the net is small and not
trained yet, a site trains on one image, and the attacker knows each image's class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from deploy.privacy.apart import Tell, serve_request
from deploy.privacy.likeness import Picture, find_psnr, find_ssim
from deploy.privacy.pictures import gather_pictures
from deploy.privacy.thumbnails import draw_thumbnail

CLASSES = 4
RATE = 0.1
LOCAL_RATE = 0.01
SMOOTHING = (1e-3, 1e-1)
"""Weights of the total variation. The attacker keeps what comes nearer to the image: he is better than he could be."""
Update = list[torch.Tensor]


@dataclass(frozen=True)
class Found:
    """What an attack found of the first site's image."""

    picture: Picture
    psnr: float
    ssim: float


def build_victim(dims: int, edge: int, seed: int) -> nn.Sequential:
    """A small net with initial weights: three convolutions, smooth activations, one fully connected layer.

    After the net of Zhu et al. (2019); images are (B, 1, edge, ...).
    """
    convolution: Any = nn.Conv2d if dims == 2 else nn.Conv3d
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        before, size = 1, edge
        for stride in (2, 2, 1):
            layers += [convolution(before, 12, 5, stride, 2), nn.SiLU()]
            before, size = 12, math.ceil(size / stride)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * size**dims, CLASSES))


def make_update(net: nn.Module, images: torch.Tensor, classes: torch.Tensor, local_steps: int) -> Update:
    """What training sends: the sum of its gradients, by the weights' difference; the net stays as it is."""
    parameters = list(net.parameters())
    before = [one.detach().clone() for one in parameters]
    for _ in range(local_steps):
        gradients = torch.autograd.grad(_loss(net, images, classes), parameters)
        with torch.no_grad():
            for one, gradient in zip(parameters, gradients, strict=True):
                one.sub_(gradient, alpha=LOCAL_RATE)
    with torch.no_grad():
        update = [(old - new) / LOCAL_RATE for old, new in zip(before, parameters, strict=True)]
        for one, old in zip(parameters, before, strict=True):
            one.copy_(old)
    return update


def add_up(updates: Sequence[Update]) -> Update:
    """The sum of several sites' updates: what is left to see under masks."""
    return [torch.stack(parts).sum(0) for parts in zip(*updates, strict=True)]


def add_noise(update: Update, noise_multiplier: float, generator: torch.Generator) -> Update:
    """The update clipped to length 1, with Gaussian noise of this standard deviation in each weight."""
    norm = math.sqrt(sum(float(one.square().sum()) for one in update))
    return [one / norm + noise_multiplier * torch.randn(one.shape, generator=generator) for one in update]


def mask_update(update: Update, generator: torch.Generator) -> Update:
    """The update under a one-time mask: whatever it was, each number is uniform over all 32-bit ones."""
    return [
        torch.randint(-(2**31), 2**31, one.shape, generator=generator, dtype=torch.int64).float() / 2**30
        for one in update
    ]


def invert_update(
    net: nn.Module,
    update: Update,
    classes: torch.Tensor,
    shape: Sequence[int],
    iterations: int,
    smoothing: float,
    seed: int,
    tell: Tell,
    what: str,
) -> torch.Tensor:
    """One image for each class, whose mean loss has a gradient that points as the update: (B, 1, *shape) in [0, 1].

    Adam on the signs of the gradient, its rate falling to a tenth at 3/8, 5/8 and 7/8 of the iterations, as in the
    paper.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((len(classes), 1, *shape), generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([images], RATE)
    milestones = [int(iterations * part) for part in (3 / 8, 5 / 8, 7 / 8)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.1)
    parameters = list(net.parameters())
    length = math.sqrt(sum(float(one.square().sum()) for one in update))
    for number in range(iterations):
        tell(f"{what}: {number} of {iterations} iterations")
        gradients = torch.autograd.grad(_loss(net, images, classes), parameters, create_graph=True)
        along = torch.stack([(one * wanted).sum() for one, wanted in zip(gradients, update, strict=True)]).sum()
        own = torch.stack([one.square().sum() for one in gradients]).sum().sqrt()
        cost = 1 - along / (own * length + 1e-12) + smoothing * _vary(images)
        (found,) = torch.autograd.grad(cost, [images])
        images.grad = found.sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach()


def attack_updates(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """All attacks, as plain figures and pictures.

    Args:
        request: `dims`, `edge`, `sites`, `local_steps`, `iterations`, `noise_multiplier`, `seed`; `data`: files or
            folders with images, none for phantoms.
    """
    torch.set_num_threads(request["threads"])
    dims, seed, sites = request["dims"], request["seed"], request["sites"]
    pictures = gather_pictures(request["data"], sites, dims, request["edge"], seed, tell)
    sites = len(pictures)
    images = torch.from_numpy(np.stack(pictures)[:, None]).float()
    classes = torch.arange(sites) % CLASSES
    net = build_victim(dims, request["edge"], seed)
    generator = torch.Generator().manual_seed(seed)
    updates = [
        make_update(net, images[site : site + 1], classes[site : site + 1], request["local_steps"])
        for site in range(sites)
    ]
    seen = {
        "plain": (updates[0], classes[:1]),
        "masked": (mask_update(updates[0], generator), classes[:1]),
        "sum": (add_up(updates), classes),
        "noised": (add_noise(updates[0], request["noise_multiplier"], generator), classes[:1]),
    }

    def invert(name: str, smoothing: float) -> Picture:
        update, known = seen[name]
        shape, count = images.shape[2:], request["iterations"]
        found = invert_update(net, update, known, shape, count, smoothing, seed, tell, f"inverting the {name} update")
        return np.asarray(found[0, 0].double().numpy())

    attacks = {
        name: max((_compare(pictures[0], invert(name, one)) for one in SMOOTHING), key=lambda found: found.psnr)
        for name in seen
    }
    attacks["guess"] = _compare(pictures[0], np.mean(pictures[1:], axis=0))
    return {
        "weights": sum(one.numel() for one in net.parameters()),
        "sites": sites,
        "truth": draw_thumbnail(pictures[0]),
        "attacks": {
            name: {"psnr": one.psnr, "ssim": one.ssim, "picture": draw_thumbnail(one.picture)}
            for name, one in attacks.items()
        },
    }


def _compare(truth: Picture, found: Picture) -> Found:
    return Found(found, find_psnr(truth, found), find_ssim(truth, found))


def _loss(net: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = nn.functional.cross_entropy(net(images), classes)
    return loss


def _vary(images: torch.Tensor) -> torch.Tensor:
    """Total variation: the mean difference of neighbours, over all axes of the grid."""
    return torch.stack([images.diff(dim=axis).abs().mean() for axis in range(2, images.ndim)]).sum()


if __name__ == "__main__":
    raise SystemExit(serve_request(attack_updates))
