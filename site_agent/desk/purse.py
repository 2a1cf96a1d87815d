"""What the preflight finds of privacy budgets: how much is left, and what would let it be spent unseen."""

from __future__ import annotations

from collections.abc import Iterator

from messages.ground.errors import KonsilError
from site_agent.config import SiteConfig
from site_agent.desk.checks import Check, Grade, failed_check
from site_agent.desk.spending import say_account
from site_agent.disk.privacy_ledger import read_accounts


def check_budgets(config: SiteConfig) -> Iterator[Check]:
    """A finding for each ledger with a budget; none where no data set has one."""
    if not config.budgeted:
        return
    if config.trust is None:
        yield Check(
            "privacy", Grade.WARN, "a budget without [trust]: this site does not notice a state folder out of a backup",
            "Give the site its keys (`konsil provision`)",
        )  # fmt: skip
    if not (config.site.state / "spool.sqlite").exists():
        yield Check("privacy", Grade.OK, f"budgets for {', '.join(sorted(config.budgeted))}; nothing is spent yet")
        return
    try:
        accounts = read_accounts(config.site.state, sorted(config.budgeted), config.budgets)
    except KonsilError as error:
        yield failed_check("privacy", error)
        return
    for one in accounts:
        if not one.budget.limits:
            continue
        if one.closed:
            yield Check("privacy", Grade.FAIL, say_account(one), "Read docs/privacy.md, Budgets: Out of a backup", 2)
        else:
            yield Check("privacy", Grade.OK, say_account(one))
