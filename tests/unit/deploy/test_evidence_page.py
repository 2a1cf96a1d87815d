"""The pages that an auditor prints: what they say, of whom, and that nothing in a log becomes HTML."""

from __future__ import annotations

from pathlib import Path

from evidence_rig import read_json, run_konsil
from places import ROOT

from deploy.report.evidence import render_evidence_page, render_lineage_page
from messages.log.verification import LogVerdict, verify_export

KEPT = max((ROOT / "tests" / "audit" / "signed_formats").iterdir())
LOG, OPERATOR = KEPT / "log.konsil", (KEPT / "operator.hex").read_text().strip()
NASTY = "<script>alert(1)</script>"


def test_the_page_of_a_log_that_holds_says_to_where_by_whom_and_with_which_keys(tmp_path: Path) -> None:
    page = tmp_path / "evidence.html"
    said = run_konsil("audit", "verify", LOG, "--operator", OPERATOR, "--html", page, "--json")
    assert said.holds, said
    newest = read_json(said)["heads"][-1]
    text = page.read_text()
    assert f"Complete to {newest['size']}, witnessed by site-a (" in text
    assert newest["root"] in text
    assert "is the one that was given" in text
    verdict = verify_export(LOG)
    assert set(verdict.by_party) == {"dr-a", "site-a", "site-b", "site-c"}
    for party, (signed, unsigned) in verdict.by_party.items():
        assert f'<th scope="row">{party}</th>' in text
        assert f"<td>{signed}</td><td>{unsigned}</td>" in text
    assert "First bad entry" not in text


def test_the_page_of_an_altered_log_names_the_first_bad_entry_and_what_held_before(tmp_path: Path) -> None:
    data = bytearray(LOG.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    log, page = tmp_path / "altered.konsil", tmp_path / "evidence.html"
    log.write_bytes(data)
    said = run_konsil("audit", "verify", log, "--html", page)
    assert said.status == 1
    text = page.read_text()
    problem = said.words.splitlines()[-1].removeprefix("konsil: ").replace(str(log), log.name)
    assert problem in text
    assert str(tmp_path) not in text, "the page is handed on"
    assert "holds up to the bad entry" in text


def test_a_lineage_page_has_rounds_and_sites(tmp_path: Path) -> None:
    rounds = read_json(run_konsil("audit", "replay", "exp-1", LOG, "--json"))["rounds"]
    page = tmp_path / "lineage.html"
    said = run_konsil("audit", "lineage", rounds["2"]["model_digest"], LOG, "--html", page, "--json")
    assert said.holds, said
    text = page.read_text()
    for site, one in read_json(said)["lineage"][0]["sites"].items():
        assert f'<th scope="row">{site}</th><td>{one["cases"]["train"]}</td>' in text
    assert rounds["2"]["model_digest"] in text


def test_what_others_wrote_is_text_on_both_pages_and_a_browser_runs_and_loads_nothing(tmp_path: Path) -> None:
    file = tmp_path / f"{NASTY.replace('/', '-')}.konsil"
    file.write_bytes(b"")
    verdict = LogVerdict(counts={NASTY: 1}, by_party={NASTY: (1, 0)})
    step = {
        "model_digest": NASTY, "experiment": NASTY, "rounds": 1, "researcher": NASTY, "experiment_digest": NASTY,
        "dataset": NASTY, "strategy": NASTY, "missing": NASTY, "declined": {NASTY: NASTY},
        "began_with": {"model_digest": NASTY, "experiment": NASTY},
        "sites": {NASTY: {"cases": {"train": NASTY}, "versions": {NASTY: NASTY}}},
        "made_in": {NASTY: {"contributors": {NASTY: NASTY}, "left_out": {NASTY: NASTY}, "model_digest": NASTY}},
    }  # fmt: skip
    pages = (
        render_evidence_page(file, verdict, problem=NASTY, times=[NASTY], kept=file),
        render_lineage_page(NASTY, [step], [file]),
    )
    for page in pages:
        assert "<script" not in page
        assert "Content-Security-Policy\" content=\"default-src 'none'" in page
        assert "src=" not in page.replace("default-src=", "")
        assert "http://" not in page
        assert "https://" not in page
