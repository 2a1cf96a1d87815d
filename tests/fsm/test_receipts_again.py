"""A receipt that was lost is given again, also for an update that was refused at once."""

from __future__ import annotations

from coordinator_kit import plain, weights
from coordinator_rig import Consortium

from messages import kinds


def test_an_update_that_was_refused_and_is_said_again_gets_its_receipt_again(consortium: Consortium) -> None:
    """Its receipt may be lost with the inbox: without another one it would wait in the site's outbox for ever."""
    consortium.start()
    consortium.join()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    consortium.until("experiment-complete")
    site = consortium.sites[0]
    late = site.say("weights-ready", weights(1, attempt=7), "exp-1", 1, attempt=7)
    site.news.until(lambda: late in site.receipts, "the first receipt")
    site.receipts.clear()
    assert site.say("weights-ready", weights(1, attempt=7), "exp-1", 1, attempt=7) == late
    site.news.until(lambda: late in site.receipts, "the second receipt", within=20.0)
