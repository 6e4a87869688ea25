"""``dub-relay rules``: what the rules decide, and rules for what they do not know."""

from __future__ import annotations

import json

import click

from relay.cli.base import (
    FailedError,
    config_option,
    json_lines_option,
    printable,
    read_settings,
    run_with_outbox,
    table,
)
from relay.core.clock import iso
from relay.core.rules.candidates import often, quoted
from relay.core.rules.candidates import suggest as write_rule
from relay.operations.rule_report import (
    RuleCandidate,
    candidate_json,
    rule_candidates,
    rule_json,
    rule_reports,
)

_NONE_YET = (
    "No candidate: no POST that carried a click has passed without a rule. Open the"
    " site with ?dub_id=… in its address, sign up, and look again."
)


@click.group(no_args_is_help=True)
@config_option
def rules() -> None:
    """See what the sign-up rules decide, and find the rule for your sign-up."""


@rules.command("list")
@json_lines_option
@config_option
def list_rules(*, as_json: bool) -> None:
    """List the rules: what decides, what is wrong, what they could not decide."""
    settings = read_settings(complete=False)
    reports = run_with_outbox(
        settings, lambda outbox: rule_reports(outbox, settings.signup)
    )
    for one in reports:
        if as_json:
            click.echo(json.dumps(rule_json(one)))
            continue
        click.echo(printable(f"{one.review.label}, by {one.review.decided_by}"))
        for warning in one.review.warnings:
            click.echo(printable(f"  warning    {warning}"))
        for each in one.undecided:
            said = f"{often(each.times)}, last {iso(each.last_at)}: {each.reason}"
            click.echo(printable(f"  undecided  {said}"))
            if each.when:
                decides = f"would decide: when = {quoted(each.when)}"
                click.echo(printable(f"             {decides}"))
    if not reports and not as_json:
        click.echo("There is no rule: see dub-relay rules candidates.")


def _candidates() -> list[RuleCandidate]:
    settings = read_settings(complete=False)
    return run_with_outbox(
        settings, lambda outbox: rule_candidates(outbox, settings.signup)
    )


@rules.command()
@json_lines_option
@config_option
def candidates(*, as_json: bool) -> None:
    """List requests with a click that no rule matches, the likeliest sign-up first.

    By method and path, with the names of their fields: never a value.
    """
    found = _candidates()
    if as_json:
        for number, one in enumerate(found, 1):
            click.echo(json.dumps(candidate_json(number, one)))
        return
    if not found:
        click.echo(_NONE_YET)
        return
    head = ("N", "REQUEST", "TIMES", "STATUS", "TYPE", "FIELDS")
    table(head, [_row(number, one) for number, one in enumerate(found, 1)])
    for number, one in enumerate(found, 1):
        if one.near:
            click.echo(printable(f"{number} {one.near}"))
    click.echo("dub-relay rules suggest N writes the rule for one of them.")


def _row(number: int, one: RuleCandidate) -> tuple[object, ...]:
    found = one.found
    return (
        number,
        found.label,
        found.times,
        ",".join(found.statuses),
        ",".join(found.types),
        " ".join(found.fields),
    )


@rules.command()
@click.argument("number", type=click.IntRange(1), default=1, metavar="[N]")
@config_option
def suggest(*, number: int) -> None:
    """Write the TOML of a rule for candidate N, the likeliest if there is no N."""
    found = _candidates()
    if number > len(found):
        raise FailedError(f"there are {len(found)} candidates" if found else _NONE_YET)
    click.echo(write_rule(found[number - 1].found), nl=False)
