"""How patches are varied: what each variation does, and that key, step and patch alone decide it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from messages.sections import Training
from messages.tasks.augmentation import BOUNDS, Augmentation, Variation
from site_agent.training.cases.sampling import Sampler
from site_agent.training.cases.varying import Warp, draw_warp, vary_intensities
from site_agent.training.seeds import make_generator

INTENSITIES = sorted(BOUNDS.keys() - Augmentation.spatial)
MILD = {
    "rotation": (-30, 30), "scaling": (0.7, 1.4), "elastic": (1, 4), "gaussian_noise": (0.1, 0.2), "blur": (0.5, 1),
    "brightness": (0.75, 0.9), "contrast": (0.5, 0.75), "low_resolution": (0.4, 0.5), "gamma_inverted": (0.7, 0.8),
    "gamma": (1.3, 1.5),
}  # fmt: skip


def case(shape: tuple[int, int, int] = (24, 20, 18), truth: tuple[float, ...] = ()) -> Any:
    """Smooth channels that differ along every axis, and a label in one half."""
    x, y, z = np.meshgrid(*(np.linspace(0, 3, edge) for edge in shape), indexing="ij")
    image = np.stack([np.sin(x) + np.cos(2 * y) + z, np.cos(x) * y]).astype(np.float32)
    label = (x > 1.5).astype(np.uint8)
    empty = np.zeros((0, 0, 0), np.uint8)
    return SimpleNamespace(
        name="case", image=image, label=empty if truth else label, truth=np.asarray(truth, np.float32),
        foreground=np.zeros(0, np.int32) if truth else np.flatnonzero(label).astype(np.int32),
    )  # fmt: skip


def always(*keys: str, **between: tuple[float, float]) -> Augmentation:
    asked = {key: Variation(chance=1, between=MILD[key]) for key in keys}
    return Augmentation(**asked, **{key: Variation(chance=1, between=one) for key, one in between.items()})


def batch(augmentation: Augmentation, patch: tuple[int, ...] = (16, 16, 16), key: int = 1, step: int = 0) -> Any:
    sampler = Sampler([case()] * 4, Training(patch=patch, batch=2, foreground_share=0.5), augmentation, key)
    return sampler.draw_step(step)[0]


@pytest.mark.parametrize("patch", [(16, 16, 16), (16, 12)])
@pytest.mark.parametrize("key", BOUNDS)
def test_each_variation_changes_a_patch_and_is_decided_by_key_and_step_alone(key: str, patch: tuple[int, ...]) -> None:
    asked = always(key)
    images, labels = batch(asked, patch)
    plain, truth = batch(Augmentation(), patch)
    assert torch.isfinite(images).all()
    assert not torch.equal(images, plain)
    assert torch.equal(labels, truth) == (key not in Augmentation.spatial) or len(patch) == 2
    np.random.seed(3)
    torch.manual_seed(3)
    again, _ = batch(asked, patch)
    assert torch.equal(images, again)
    for other in (batch(asked, patch, key=2), batch(asked, patch, step=1)):
        assert not torch.equal(images, other[0])


def test_nothing_is_moved_by_angles_of_0_and_a_factor_of_1() -> None:
    still = always(rotation=(0, 0), scaling=(1, 1), elastic=(0, 0))
    for patch in ((16, 16, 16), (31, 8, 8), (16, 12)):  # also larger than the image
        images, labels = batch(still, patch)
        plain, truth = batch(Augmentation(), patch)
        torch.testing.assert_close(images, plain, rtol=0, atol=1e-4)
        assert torch.equal(labels, truth)


def test_a_quarter_turn_in_a_slice_turns_image_and_label_together() -> None:
    asked = always(rotation=(90, 90))
    one = case((20, 20, 3))
    warp = draw_warp(asked.list_variations((12, 12)), (12, 12, 1), make_generator(1, 0))
    assert warp is not None
    image, label = warp.cut_patch(one, np.array([9.5, 9.5, 1.0]))
    upright = one.image[:, 4:16, 4:16, 1:2]
    turned = [np.rot90(upright, turns, (1, 2)) for turns in (1, 3)]
    assert any(np.allclose(image, other, atol=1e-4) for other in turned)
    which = [np.allclose(image, other, atol=1e-4) for other in turned].index(True)
    np.testing.assert_array_equal(label, np.rot90(one.label[4:16, 4:16, 1:2], (1, 3)[which]))


def test_a_larger_scale_sees_more_of_the_image_and_zeros_beyond_it() -> None:
    one = case((16, 16, 16))
    one.image[:] = 1
    warp = draw_warp(always(scaling=(2, 2)).list_variations((16, 16, 16)), (16, 16, 16), make_generator(1, 0))
    assert isinstance(warp, Warp)
    image, _ = warp.cut_patch(one, np.full(3, 7.5))
    assert image[0, 8, 8, 8] == 1
    assert image[0, 0, 8, 8] == image[0, 8, 8, 15] == 0
    assert (image[0, 4:12, 4:12, 4:12] == 1).all()


def test_a_whole_image_with_a_truth_out_of_a_table_is_turned_too() -> None:
    training = Training(patch=(24, 20, 18), batch=2)
    cases = [case(truth=(1.0, 0.0))] * 2
    images, truths = Sampler(cases, training, always("rotation"), 1).draw_step(0)[0]
    plain, _ = Sampler(cases, training, Augmentation(), 1).draw_step(0)[0]
    assert truths.tolist() == [[1, 0], [1, 0]]
    assert not torch.equal(images, plain)


@pytest.mark.parametrize("key", INTENSITIES)
def test_a_constant_channel_stays_finite(key: str) -> None:
    image = np.full((2, 8, 8, 8), 3.0, dtype=np.float32)
    vary_intensities(image, always(key).list_variations((8, 8, 8)), make_generator(1, 0))
    assert np.isfinite(image).all()


def test_gamma_and_contrast_keep_what_they_are_said_to_keep() -> None:
    image = case().image.copy()
    for key in ("gamma", "gamma_inverted"):
        varied = image.copy()
        vary_intensities(varied, always(key).list_variations((24, 20, 18)), make_generator(1, 0))
        assert not np.allclose(varied, image, atol=1e-2)
        np.testing.assert_allclose(varied.mean((1, 2, 3)), image.mean((1, 2, 3)), atol=1e-3)
        np.testing.assert_allclose(varied.std((1, 2, 3)), image.std((1, 2, 3)), rtol=1e-3)
    wide = image.copy()
    vary_intensities(wide, always(contrast=(2, 2)).list_variations((24, 20, 18)), make_generator(1, 0))
    assert wide.min() >= image.min()
    assert wide.max() <= image.max()


def test_factors_lie_below_1_as_often_as_above() -> None:
    asked = always(brightness=(0.5, 4)).list_variations((8, 8, 8))
    found = []
    for step in range(300):
        image = np.ones((1, 1, 1, 1), dtype=np.float32)
        vary_intensities(image, asked, make_generator(1, step))
        found.append(float(image[0, 0, 0, 0]))
    assert 110 < sum(one < 1 for one in found) < 190
    assert 0.5 <= min(found) < 0.6
    assert 3.5 < max(found) <= 4


def test_the_preset_is_nnu_nets_and_what_the_file_says_beside_it_holds() -> None:
    preset = Augmentation(preset="nnunet")
    still = Augmentation(preset="nnunet-without-mirroring")
    assert (preset.mirrors, still.mirrors, Augmentation().mirrors) == (0.5, 0, 0)
    assert Augmentation(preset="nnunet", flip=0.2).mirrors == 0.2
    assert still.list_variations((64, 64, 64)) == preset.list_variations((64, 64, 64))
    solid = preset.list_variations((64, 64, 64))
    assert "elastic" not in solid
    assert list(solid) == [key for key in BOUNDS if key != "elastic"]
    assert solid["rotation"].between == (-30, 30)
    assert preset.list_variations((64, 48))["rotation"].between == (-180, 180)
    assert preset.list_variations((64, 32))["rotation"].between == (-15, 15)
    off = Augmentation(
        preset="nnunet", gamma=Variation(chance=0, between=(1, 1)), blur=Variation(chance=1, between=(1, 2))
    )
    assert "gamma" not in off.list_variations((64, 64))
    assert off.list_variations((64, 64))["blur"].chance == 1
    assert Augmentation().list_variations((64, 64, 64)) == {}
