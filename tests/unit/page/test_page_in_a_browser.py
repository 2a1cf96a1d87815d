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
from deploy.page.web import HERE


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


AT_WORK = """<!doctype html><html data-page="/s"><body><p id="age">live, as of 14:03:12Z</p><main id="main">
<section id="s-all">old</section><section id="s-pick"><input type="checkbox" value="a"><b>old</b></section></main>
<a href="#" id="away">away</a><script>
let take;
window.EventSource = class { addEventListener(name, hear) { if (name === "sheet") take = hear; } };
</script><script>SCRIPT</script><script>
const box = document.querySelector("input");
box.focus(); box.checked = true;
const page = (more) => `<main id="main">${more}<section id="s-all">new</section>
<section id="s-pick"><input type="checkbox" value="a"><b>new</b></section></main>`;
const told = () => [...document.querySelectorAll("section")].map((one) => one.textContent.trim()).join() +
  "," + (document.activeElement === box) + "," + document.querySelector("input").checked;
const said = [];
take({data: JSON.stringify(page(""))}); said.push(told());
take({data: JSON.stringify(page('<section id="s-more">more</section>'))}); said.push(told());
document.getElementById("away").focus();
setTimeout(() => { said.push(told()); document.body.textContent = said.join(" / "); }, 1500);
</script></body></html>"""


@pytest.mark.slow
def test_who_has_ticked_a_box_still_sees_what_is_new(tmp_path: Path) -> None:
    """The page said "live" while it took nothing in: a box that was clicked keeps the focus."""
    file = tmp_path / "page.html"
    file.write_text(AT_WORK.replace("SCRIPT", (HERE / "static" / "page.js").read_text()))
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [find_chromium(), *words, "--virtual-time-budget=4000", "--dump-dom", file.as_uri()],
        check=False, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "HOME": str(tmp_path)},
    ).stdout  # fmt: skip
    assert "new,old,true,true / more,new,old,true,true / more,new,new,false,true" in shown, shown
