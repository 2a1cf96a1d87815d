"""The live page as its command serves it, in a real browser without a screen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import PATIENCE
from needs import find_chromium
from page_rig import Hospital, job_of

from deploy.demo.experiments import glioma_demo


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A site's page, by its command; its link."""
    hospital = Hospital(tmp_path, job_of({**glioma_demo(3, 1, ["site-a"]), "id": "exp-1"}))
    words = ["site", "page", "--config", str(tmp_path / "site.toml"), "--port", "0", "--allow-orders"]
    command = [sys.executable, "-m", "deploy.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as page:
        assert page.stdout is not None
        try:
            yield page.stdout.readline().strip(), page
        finally:
            page.kill()
            hospital.close()


@pytest.mark.slow
def test_the_link_opens_the_page_in_a_browser_and_the_command_ends_when_told(
    served: tuple[str, subprocess.Popen[str]], tmp_path: Path
) -> None:
    browser = find_chromium()
    link, page = served
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]

    def dump_page(address: str) -> str:
        return subprocess.run(
            [browser, *words, "--dump-dom", address],
            check=False, capture_output=True, text=True, timeout=PATIENCE,
            env={**os.environ, "HOME": str(tmp_path)},
        ).stdout  # fmt: skip

    dump_page(link)  # which may end before the browser has gone on to the page
    shown = dump_page(link.split("open/")[0])
    assert "awaits your approval" in shown
    assert 'body class="fresh"' in shown
    assert "Approve exp-1" in shown
    page.send_signal(signal.SIGTERM)
    assert page.wait(PATIENCE) in (0, -signal.SIGTERM)
