"""`konsil site privacy [NAME]`: what the site's ledgers have left for its patients. For local eyes only."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deploy.console import JsonOption, emit_json, note_line, print_table, say_line
from deploy.site.options import DEFAULT, ConfigOption
from messages.ground.errors import RequestError


class ShownByDefault(TyperGroup):
    """Whatever is no command of the group is an argument of its `show`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click does, with `show` put before what names no command."""
        names = {"--help", *self.commands}
        return super().parse_args(ctx, args if names.intersection(args) else ["show", *args])


NameArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="A data set, or a ledger; without one: all.")
]
app = typer.Typer(cls=ShownByDefault)


@app.callback()
def _group() -> None:
    """What this site's patients have given away, and may still: konsil site privacy [NAME]."""


@app.command("show")
def show_privacy(
    name: NameArgument = None,
    config: ConfigOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Budgets, what is spent and reserved, by ledger and experiment. Nothing of it is sent; the agent need not run.

    Epsilon is that of each patient of the data set over all experiments. No command takes a charge back.

    Examples:

    konsil site privacy

    konsil site privacy glioma
    """
    from site_agent.config import read_config
    from site_agent.core.budget import NOT_COVERED, name_ledger
    from site_agent.desk import spending
    from site_agent.disk.privacy_ledger import read_accounts

    site = read_config(config)
    accounts = read_accounts(site.site.state, list(site.datasets), site.budgets)
    if name is not None:
        ledger = name_ledger(name, site.budgets)
        known = accounts
        accounts = [one for one in known if one.ledger in (ledger, name)]
        if not accounts:
            listed = ", ".join(one.ledger for one in known) or "none"
            raise RequestError(f"no data set or ledger {name!r} is known here", advice=f"Known ledgers: {listed}")
    if as_json:
        rows: list[dict[str, Any]] = [spending.account_as_plain(one, site.budgets) for one in accounts]
        emit_json({"site": site.site.name, "ledgers": rows})
        return
    if not accounts:
        note_line("No data set is described: add [datasets.NAME] to site.toml")
    for account in accounts:
        say_line(spending.say_account(account))
        if account.holdings:
            head = ["experiment", "data set", "spent", "planned", "steps", ""]
            print_table(head, list(spending.list_rows(account)))
    if any(one.holdings for one in accounts):
        say_line(NOT_COVERED)
