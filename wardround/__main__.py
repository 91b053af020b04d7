"""``wardround``: the command line. Each command imports what it needs when it is called."""

from __future__ import annotations

import sys
from typing import Annotated

import click
import typer

from federation.errors import WardroundError
from wardround import (
    approve,
    compare,
    data,
    deidentify,
    ledger,
    models,
    monitor,
    provision,
    pull,
    rehearse,
    run,
    service,
    site,
    site_check,
    site_hashes,
    strategies,
    submit,
    sweep,
)

cli = typer.Typer(
    name="wardround",
    help="Federated learning for hospitals: train across sites without moving patient data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("wardround"))
        raise typer.Exit


run.register(cli)
data.register(cli)
compare.register(cli)
ledger.register(cli)
monitor.register(cli)
sweep.register(cli)
strategies.register(cli)
models.register(cli)
site_check.register(site.site)
site_hashes.register(site.site)
deidentify.register(site.site)
pull.register(site.site)
provision.register(cli)
site.register(cli)
approve.register(site.site)
service.register(cli, site.site)
submit.register(cli)
rehearse.register(cli)


def main() -> None:
    """Run a command; a user's mistake ends in one message and an exit code, not a traceback."""
    try:
        sys.exit(cli(standalone_mode=False))
    except WardroundError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("stopped; a run that has a checkpoint continues with --resume RUN", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
