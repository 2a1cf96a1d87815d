"""Preprocessing, sampling, scores and optimiser state of the training process."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import deterministic as fill

from deploy.baseline import paired_bootstrap
from deploy.demo.experiments import decathlon_demo, glioma_demo
from messages.experiment import Experiment
from messages.reasons import Reason
from messages.sections import Preprocessing, Training
from messages.tasks.augmentation import Augmentation
from messages.tasks.optimisers import Optimizer
from site_agent.training import optimise
from site_agent.training.cases import cache
from site_agent.training.cases.cache import CachedCase
from site_agent.training.cases.preprocess import prepare_case, to_native
from site_agent.training.cases.sampling import Sampler
from site_agent.training.engine import NotANumber, train_round
from site_agent.training.failures import code_of, spoils_the_process
from site_agent.training.machine import GpuGone
from site_agent.training.protocol import CaseRow, RegionRow, SplitRows
from site_agent.training.seeds import derive_seed
from site_agent.training.tasks.evaluation import dice_score, hausdorff_distance
from site_agent.training.tasks.regions import Regions
from site_agent.training.tasks.segmentation import SegmentationLearner


def blob(shape: tuple[int, int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = np.zeros((2, *shape), dtype=np.float32)
    image[:, 3:-4, 2:-2, 5:-3] = rng.uniform(1, 2, image[:, 3:-4, 2:-2, 5:-3].shape)
    label = np.zeros(shape, dtype=np.uint8)
    label[6:10, 6:12, 8:13] = 1
    label[7:9, 7:9, 9:11] = 2
    return image, label


def cached(folder: Path, seed: int = 0) -> CachedCase:
    image, label = blob((20, 22, 24), seed)
    cache.store_case(folder, str(seed), prepare_case(image, label, np.eye(4), Preprocessing()))
    return cache.fetch_case(folder, str(seed), f"case-{seed}")


def experiment(**training: object) -> Experiment:
    plain = glioma_demo(3, 1, ["site-a"])
    plain["task"] |= {"channels": ["T1", "T2"], "regions": {"WT": ["ED", "ET"], "ET": ["ET"]}}
    plain["net"] |= {"channels": [4, 8], "strides": [2]}
    plain["training"] |= {"patch": [16, 16, 16], "patches_per_case": 2} | training
    return Experiment.model_validate(plain)


def regions(softmax: bool = False) -> Regions:
    return Regions({"WT": ["ED", "ET"], "ET": ["ET"]}, ["ED", "ET"], softmax=softmax)


def test_the_demos_experiments_are_valid() -> None:
    assert Experiment.model_validate(glioma_demo(10, 1, ["site-a", "site-b"])).task.out_channels == 3
    real = decathlon_demo(20, 1, ["site-a"], ["MRI"], ["anterior", "posterior"])
    assert Experiment.model_validate(real).task.out_channels == 3


@pytest.mark.parametrize("axes", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_the_same_anatomy_stored_in_any_orientation_becomes_the_same_input(
    axes: tuple[int, ...], order: tuple[int, ...]
) -> None:
    image, label = blob((20, 22, 24))
    flips = tuple(slice(None, None, sign) for sign in axes)
    turned = image[(slice(None), *flips)].transpose(0, *(axis + 1 for axis in order))
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, axis in enumerate(order):
        affine[axis, column] = axes[axis] * (axis + 1.0)
    here = prepare_case(turned, label[flips].transpose(order), affine, Preprocessing())
    there = prepare_case(image, label, np.diag([1.0, 2.0, 3.0, 1.0]), Preprocessing())
    np.testing.assert_array_equal(here.image, there.image)
    np.testing.assert_array_equal(here.reference, there.reference)
    assert replace(here.geometry, turn=None) == replace(there.geometry, turn=None)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "RPI", None])
@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_what_is_predicted_lies_on_the_image_as_it_came(orientation: str | None, tilt: float) -> None:
    """However its axes lie, and however they lean."""
    rotation = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    values = np.arange(1, 6 * 7 * 8 + 1, dtype=np.float32).reshape(6, 7, 8)
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = rotation @ (np.eye(3)[:, order] * signs * (1.0, 2.0, 3.0))
            edge = values.copy()
            edge[0] = edge[:, -1] = 0  # so that the crop takes something away
            settings_ = Preprocessing(orientation=orientation, normalise="none")
            case = prepare_case(edge[None], np.zeros(edge.shape, np.uint8), affine, settings_)
            back = to_native(torch.from_numpy(case.image), case.geometry, None)
            np.testing.assert_array_equal(back[0].numpy(), edge)


def test_a_case_cached_by_0_1_is_not_turned_back_by_guess(tmp_path: Path) -> None:
    image, label = blob((20, 22, 24))
    case = prepare_case(image, label, np.diag([-1.0, -1.0, 1.0, 1.0]), Preprocessing())
    cache.store_case(tmp_path, "new", case)
    assert cache.fetch_case(tmp_path, "new", "case").geometry == case.geometry
    geometry = tmp_path / "new" / "geometry.json"
    plain = json.loads(geometry.read_text())
    del plain["turn"]
    geometry.write_text(json.dumps(plain))
    old = cache.fetch_case(tmp_path, "new", "case")
    assert replace(case.geometry, turn=None) == old.geometry
    with pytest.raises(ValueError, match="prepare the case anew"):
        to_native(torch.from_numpy(case.image), old.geometry, None)


def test_a_label_sent_to_the_nets_grid_and_back_is_on_the_native_grid_again() -> None:
    image, label = blob((20, 22, 24))
    case = prepare_case(image, label, np.eye(4), Preprocessing(spacing_mm=(0.5, 0.5, 0.5)))
    assert case.label.shape == tuple(2 * (end - begin) for begin, end in case.geometry.box)
    back = to_native(regions().make_target(torch.from_numpy(case.label)[None])[0], case.geometry, None)
    score = dice_score(back[0].numpy() >= 0.5, label > 0)
    assert back.shape[1:] == label.shape
    assert score is not None
    assert score > 0.99


def test_outside_the_crop_a_softmax_predicts_background() -> None:
    image, label = blob((20, 22, 24))
    case = prepare_case(image, label, np.eye(4), Preprocessing())
    whole = to_native(torch.full((3, *case.label.shape), 0.3), case.geometry, 0)
    assert whole[:, 0, 0, 0].tolist() == [1, 0, 0]


def test_z_scores_leave_the_background_at_zero() -> None:
    image, label = blob((20, 22, 24))
    case = prepare_case(image, label, np.eye(4), Preprocessing(crop="none"))
    inside = case.image[0][image[0] != 0]
    assert abs(float(inside.mean())) < 1e-4
    assert abs(float(inside.std()) - 1) < 1e-4
    assert not case.image[0][image[0] == 0].any()


def test_a_case_half_written_by_a_killed_process_is_swept_and_never_read(tmp_path: Path) -> None:
    (tmp_path / ".key.4194999").mkdir()  # above the largest pid
    (tmp_path / ".key.4194999" / "image.npy").write_bytes(b"half")
    cache.sweep_leftovers(tmp_path)
    assert not cache.holds_case(tmp_path, "key")
    assert not list(tmp_path.iterdir())


@settings(max_examples=30, deadline=None)
@given(step=st.integers(0, 50), share=st.floats(0, 1), width=st.integers(8, 40))
def test_a_batch_depends_on_its_step_and_not_on_the_batches_before(
    tmp_path_factory: pytest.TempPathFactory, step: int, share: float, width: int
) -> None:
    folder = tmp_path_factory.mktemp("cases")
    cases = [cached(folder, seed) for seed in range(3)]
    training = Training(patch=(width, 16, 16), batch=2, foreground_share=share)
    augmentation = Augmentation(flip=0.5, scale_intensity=0.1, shift_intensity=0.1, noise=0.1)
    fresh, used = (Sampler(cases, training, augmentation, key=9) for _ in range(2))
    for before in range(step):
        if before % 10 == 0:
            used.draw_step(before)[0]
    for one, two in zip(fresh.draw_step(step)[0], used.draw_step(step)[0], strict=True):
        assert torch.equal(one, two)


def test_an_epoch_visits_each_case_as_often_as_asked(tmp_path: Path) -> None:
    cases = [cached(tmp_path, seed) for seed in range(3)]
    sampler = Sampler(cases, Training(patch=(8, 8, 8), batch=2, patches_per_case=3), Augmentation(), key=1)
    assert sampler.steps_per_epoch == 5
    assert sum(len(sampler.draw_step(step)[0][0]) for step in range(5)) == 9


def test_a_patch_asked_for_with_foreground_holds_some(tmp_path: Path) -> None:
    cases = [cached(tmp_path)]
    training = Training(patch=(8, 8, 8), batch=1, foreground_share=1, local_steps=20)
    sampler = Sampler(cases, training, Augmentation(flip=0.5), key=1)
    assert all(sampler.draw_step(step)[0][1].any() for step in range(20))


def test_regions_overlap_under_sigmoid_and_exclude_each_other_under_softmax() -> None:
    label = torch.tensor([[[[0, 1, 2]]]], dtype=torch.uint8)
    assert regions().make_target(label)[0, :, 0, 0].tolist() == [[0, 1, 1], [0, 0, 1]]
    apart = Regions({"a": ["A"], "b": ["B"]}, ["A", "B"], softmax=True)
    assert apart.make_target(label)[0, :, 0, 0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_both_empty_is_left_out_and_a_false_positive_scores_zero() -> None:
    rows = SplitRows(
        split="test",
        cases=[
            CaseRow(case="a", regions={"ET": RegionRow(dice=None, reference_empty=True, prediction_empty=True)}),
            CaseRow(case="b", regions={"ET": RegionRow(dice=0.0, reference_empty=True, prediction_empty=False)}),
            CaseRow(case="c", regions={"ET": RegionRow(dice=0.8, reference_empty=False, prediction_empty=False)}),
            CaseRow(case="d", failed=True, regions={}),
        ],
    )
    score = rows.scores().metrics["dice"]["ET"]
    assert (score.n, score.sum, score.both_empty, score.false_positive, score.failed) == (2, 0.8, 1, 1, 1)
    assert dice_score(np.zeros(3, bool), np.zeros(3, bool)) is None
    assert dice_score(np.ones(3, bool), np.zeros(3, bool)) == 0


def test_hd95_is_in_millimetres_and_absent_where_a_mask_is_empty() -> None:
    one = np.zeros((12, 12, 12), bool)
    one[3:6, 3:6, 3:6] = True
    assert hausdorff_distance(one, np.roll(one, 2, axis=0), (1.5, 1, 1)) == pytest.approx(3.0)
    assert hausdorff_distance(one, np.zeros_like(one), (1, 1, 1)) is None


def test_kept_optimiser_state_makes_a_repeated_round_start_where_it_started(tmp_path: Path) -> None:
    def steps(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()

    kept = optimise.KeptState(tmp_path)
    ends = []
    for number in (1, 2, 2):
        weight = torch.nn.Parameter(torch.arange(4.0))
        optimizer = optimise.make_optimizer(Optimizer(), [weight], 0.1)
        assert kept.restore_state(optimizer, number) == (number > 1)
        steps(optimizer, weight)
        kept.keep_state(optimizer, number)
        ends.append(weight.detach().clone())
    assert torch.equal(ends[1], ends[2])
    assert not torch.equal(ends[0], ends[1])


@pytest.mark.parametrize("net", [{"name": "UNet", "channels": [4, 8], "strides": [2]}, {"name": "SegResNet"}])
def test_a_round_reads_no_memory_that_it_did_not_write(tmp_path: Path, net: dict[str, object]) -> None:
    """Why the training process need not have PyTorch fill new tensors, which costs it 7 % (`_choose_device`)."""
    from nets.build import build_net
    from nets.weights import arrays_of

    chosen = experiment(local_epochs=None, local_steps=2)

    def trained(*, filled: bool) -> dict[str, bytes]:
        model = build_net(net, 2, 2, seed=1)
        filling = fill.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True)
        fill.fill_uninitialized_memory = filled
        try:
            train_round(
                model,
                [cached(tmp_path)],
                chosen,
                SegmentationLearner(chosen),
                round_number=1,
                site="s",
                device=torch.device("cpu"),
            )
        finally:
            fill.fill_uninitialized_memory = filling
        return {name: array.tobytes() for name, array in arrays_of(model).items()}

    assert trained(filled=True) == trained(filled=False)  # filled with NaN, which would spread to the weights


def test_a_round_after_rounds_that_stand_has_the_seeds_and_the_rate_of_its_place(tmp_path: Path) -> None:
    from nets.build import build_net
    from nets.weights import arrays_of

    def trained(number: int, count: int, **more: object) -> dict[str, bytes]:
        plain = experiment(local_epochs=None, local_steps=2, schedule={"name": "poly"}).as_plain()
        plain |= {"rounds": {**plain["rounds"], "count": count}, **more}
        chosen = Experiment.model_validate(plain)
        net = build_net({"name": "UNet", "channels": [4, 8], "strides": [2]}, 2, 2, seed=1)
        learner = SegmentationLearner(chosen)
        train_round(net, [cached(tmp_path)], chosen, learner, round_number=number, site="s", device=torch.device("cpu"))
        return {name: array.tobytes() for name, array in arrays_of(net).items()}

    digest = f"sha256:{'0' * 64}"
    said = {"experiment": "old", "rounds": 4, "model": digest, "after": 2}
    anew = {"supersedes": said, "net": {"name": "UNet", "channels": [4, 8], "strides": [2], "from": digest}}
    assert trained(1, 2, **anew) == trained(3, 4)
    assert trained(1, 2, **anew) != trained(1, 2)


def test_a_loss_that_is_no_number_is_a_reason_code(tmp_path: Path) -> None:
    from nets.build import build_net

    settings_ = experiment()
    net = build_net({"name": "UNet", "channels": [4, 8], "strides": [2]}, 2, 2, seed=1)
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    with pytest.raises(NotANumber) as caught:
        train_round(
            net,
            [cached(tmp_path)],
            settings_,
            SegmentationLearner(settings_),
            round_number=1,
            site="s",
            device=torch.device("cpu"),
        )
    assert code_of(caught.value) is Reason.NAN_LOSS


def test_what_goes_wrong_has_its_code() -> None:
    assert code_of(OSError(28, "No space left on device")) is Reason.DISK_FULL
    assert code_of(MemoryError()) is Reason.OUT_OF_MEMORY
    assert code_of(torch.cuda.OutOfMemoryError("x")) is Reason.CUDA_OOM
    assert code_of(RuntimeError("x")) is Reason.TRAINING_ERROR


@pytest.mark.parametrize(
    ("error", "code", "spoilt"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), Reason.CUDA_OOM, False),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors"), Reason.CUDA_OOM, False),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            Reason.CUDA_OOM,
            False,
        ),
        (torch.AcceleratorError("CUDA error: unknown error"), Reason.GPU_ERROR, True),  # fallen off the bus
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), Reason.GPU_ERROR, True),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), Reason.GPU_ERROR, True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), Reason.GPU_ERROR, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), Reason.GPU_ERROR, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), Reason.GPU_ERROR, True),
        (RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED"), Reason.GPU_ERROR, True),
        (RuntimeError("No CUDA GPUs are available"), Reason.GPU_ERROR, True),
        (torch.cuda.DeferredCudaCallError("CUDA call failed lazily"), Reason.GPU_ERROR, True),
        (GpuGone("the GPU that the site lends is not to be seen"), Reason.GPU_ERROR, True),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), Reason.TRAINING_ERROR, False),
        (ValueError("CUDA error: this is no word of CUDA's"), Reason.TRAINING_ERROR, False),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, Exception) else None,
)
def test_what_a_gpu_does_has_its_code_and_tells_whether_the_process_is_spoilt(
    error: Exception, code: Reason, spoilt: bool
) -> None:
    assert (code_of(error), spoils_the_process(error)) == (code, spoilt)


def test_seeds_differ_by_every_part() -> None:
    seeds = {derive_seed(1, "round", r, "site", s) for r in range(20) for s in ("a", "b")}
    assert len(seeds) == 40


def test_the_paired_gain_is_the_difference_of_means_within_its_interval() -> None:
    rng = np.random.default_rng(0)
    base = {s: [{"WT": float(v), "ET": None if v < 0.5 else float(v)} for v in rng.uniform(0.4, 0.8, 9)] for s in "ab"}
    better = {
        s: [{k: None if v is None else v + 0.1 for k, v in row.items()} for row in rows] for s, rows in base.items()
    }
    gain = paired_bootstrap(better, base)
    assert gain.mean == pytest.approx(0.1)
    assert gain.low == pytest.approx(0.1)
    assert gain.n == 18
