"""The command that shows the strategies, and what each can be combined with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from federation.strategies.base import Strategy

COMBINED = ("dp_sgd", "central", "secure sum")
"""Columns that say yes or no; the reasons stand below."""


def register(cli: typer.Typer) -> None:
    """Add this group's commands."""
    cli.command()(strategies)


def strategies(
    name: Annotated[
        str | None, typer.Argument(help="Show one strategy with its options.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the strategies: what they do, need, and can be combined with."""
    from federation.errors import UserError
    from federation.strategies import STRATEGIES
    from federation.validation import nearest

    if name is not None and name not in STRATEGIES:
        guess = nearest(name, STRATEGIES)
        raise UserError(
            "wardround strategies",
            f'"{name}" is not a strategy',
            remedy=f'Did you mean "{guess}"?' if guess else "`wardround strategies` lists them.",
        )
    told = [described(kind) for key, kind in STRATEGIES.items() if name in (None, key)]
    if as_json:
        print(json.dumps(told if name is None else told[0], indent=1))
    elif name is None:
        _print_table(told)
    else:
        _print_one(told[0])


def described(kind: type[Strategy]) -> dict[str, Any]:
    """Return the facts of a strategy, as a document."""
    from federation.strategies.base import Strategy

    shared = Strategy.model_fields.keys()
    return {
        "name": kind.model_fields["name"].default,
        "summary": kind.summary,
        "source": kind.source,
        "needs": kind.needs,
        "at_sites": kind.at_sites,
        "keeps": kind.keeps,
        "tells": "the global model's loss on training patients" if kind.tells_loss else "",
        "optimizer": "sgd without momentum and weight decay" if kind.only_plain_sgd else "any",
        "weighting": "uniform" if kind.counts_once else "any",
        "sites_without_a_modality": kind.without_a_modality,
        "not_with": {
            name: why
            for name, why in zip(
                COMBINED,
                (kind.not_with_dp_sgd, kind.not_with_central, kind.not_with_secure_sum),
                strict=True,
            )
            if why
        },
        "options": {
            name: field.default for name, field in kind.model_fields.items() if name not in shared
        },
    }


def _print_table(told: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("strategy", "needs", *COMBINED, "what it does"):
        table.add_column(column, no_wrap=column != "what it does")
    for one in told:
        allowed = ["-" if name in one["not_with"] else "yes" for name in COMBINED]
        table.add_row(one["name"], one["needs"], *allowed, one["summary"])
    console = Console()
    console.print(table)
    console.print(
        "needs: whether the sum of the updates is enough, or each is looked at.\n"
        "dp_sgd, central: values of privacy.mechanism. secure sum: whether the coordinator could\n"
        "be kept from seeing more than the sum. `wardround strategies NAME` has the reasons and\n"
        "the options.",
        highlight=False,
    )


def _print_one(one: dict[str, Any]) -> None:
    lines = [f"{one['name']}: {one['summary']} ({one['source']})", ""]
    rows = {
        "needs": "the weighted sum of the updates" if one["needs"] == "sum" else "each update",
        "at a site": one["at_sites"] or "trains from the global weights",
        "a site keeps": one["keeps"] or "nothing",
        "a site tells": one["tells"] or "nothing beside the update and what all strategies tell",
        "optimiser": one["optimizer"],
        "weighting": one["weighting"],
        "missing modality": one["sites_without_a_modality"],
        **{name: f"no: {one['not_with'][name]}" for name in COMBINED if name in one["not_with"]},
        **{name: "yes" for name in COMBINED if name not in one["not_with"]},
    }
    lines += [f"{name:<17} {text}" for name, text in rows.items()]
    options = [f"  {name} = {json.dumps(value)}" for name, value in one["options"].items()]
    lines += ["", "options, in [strategy], with their defaults:", *options] if options else []
    print("\n".join(lines))
