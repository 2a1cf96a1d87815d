"""Images out of updates: what is seen plainly comes back, and noise hides it; the page and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.cli.command import run_command
from deploy.privacy import inversion
from deploy.privacy.likeness import find_psnr, find_ssim
from deploy.privacy.pictures import gather_pictures, shrink_picture
from messages.ground.errors import RequestError

EDGE = 16


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return gather_pictures((), 2, 2, EDGE, 1, lambda _text: None)


def test_an_image_is_as_like_itself_as_can_be_and_less_like_noise() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((16, 16))
    assert (find_psnr(image, image), find_ssim(image, image)) == (100.0, pytest.approx(1.0))
    assert find_psnr(np.zeros((8, 8)), np.full((8, 8), 0.1)) == pytest.approx(20.0)
    assert find_ssim(image, rng.random((16, 16))) < 0.4


def test_a_plain_update_gives_the_image_back_and_a_noised_one_does_not(pictures: list[np.ndarray]) -> None:
    net = inversion.build_victim(2, EDGE, 1)
    image = torch.from_numpy(pictures[0])[None, None].float()
    known = torch.tensor([0])
    update = inversion.make_update(net, image, known, 1)

    def invert(one: inversion.Update) -> float:
        found = inversion.invert_update(net, one, known, (EDGE, EDGE), 150, 1e-3, 1, lambda _text: None, "")
        return find_ssim(pictures[0], found[0, 0].double().numpy())

    noised = inversion.add_noise(update, 1.0, torch.Generator().manual_seed(1))
    assert invert(update) > 0.8
    assert invert(noised) < 0.3


def test_an_update_of_one_step_is_its_gradient_and_leaves_the_net_as_it_was(pictures: list[np.ndarray]) -> None:
    net = inversion.build_victim(2, EDGE, 1)
    before = [one.detach().clone() for one in net.parameters()]
    image, known = torch.from_numpy(pictures[0])[None, None].float(), torch.tensor([3])
    update = inversion.make_update(net, image, known, 1)
    torch.nn.functional.cross_entropy(net(image), known).backward()
    for one, old, told in zip(net.parameters(), before, update, strict=True):
        assert torch.equal(one, old)
        assert one.grad is not None
        assert torch.allclose(told, one.grad, atol=1e-4)


def test_updates_add_up_and_a_masked_one_has_nothing_of_what_it_was() -> None:
    one, two = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 4.0])]
    assert inversion.add_up([one, two])[0].tolist() == [4.0, 6.0]
    masked = [inversion.mask_update(same, torch.Generator().manual_seed(5)) for same in (one, two)]
    assert torch.equal(masked[0][0], masked[1][0])


def test_values_of_an_image_are_stretched_from_0_to_1() -> None:
    volume = np.arange(20 * 20 * 4, dtype=np.int16).reshape(20, 20, 4)
    flat, whole = shrink_picture(volume, 2, 8), shrink_picture(volume, 3, 8)
    assert (flat.shape, whole.shape) == ((8, 8), (8, 8, 8))
    assert (flat.min(), flat.max()) == (0.0, 1.0)


def test_one_image_alone_cannot_be_hidden_in_a_sum(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(tmp_path / "a.png")
    with pytest.raises(RequestError, match="1 image: 2 or more are needed"):
        gather_pictures([str(tmp_path)], 8, 2, EDGE, 1, lambda _text: None)


def test_volumes_are_attacked_too() -> None:
    request = {"dims": 3, "edge": 8, "sites": 2, "local_steps": 2, "iterations": 2, "noise_multiplier": 1.0}
    found = inversion.attack_updates(request | {"seed": 1, "threads": 1, "data": []}, lambda _text: None)
    assert found["attacks"]["guess"]["ssim"] > found["attacks"]["masked"]["ssim"]


def test_the_command_writes_one_page_that_holds_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "attack.html"
    words = ["--out", str(page), "--iterations", "2", "--sites", "2", "--json"]
    assert run_command(["privacy", "attack", *words]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["attacks"].keys() == {"plain", "masked", "sum", "noised", "guess"}
    text = page.read_text()
    assert text.count('src="data:image/png;base64,') == 6
    assert "http" not in text.replace("http-equiv", "")


def test_each_mistake_is_one_line_and_status_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mistakes = {
        "--sites: 1 cannot be": ["--sites", "1"],
        "--noise: 0 cannot be": ["--noise", "0"],
        "none.toml": [str(tmp_path / "none.toml")],
    }
    for words, arguments in mistakes.items():
        assert run_command(["privacy", "attack", *arguments]) == 2, words
        said = capfd.readouterr().err.splitlines()
        assert len(said) == 1
        assert words in said[0]
