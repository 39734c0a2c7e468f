"""The command line: ``llamarec data`` prints a row of the paper's Table 2, ``llamarec recommend`` a ranked list."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llamarec_core.files import InputError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="ml-100k-1998, ml-100k, beauty, games, or a folder's name of your own")],
    folder: Annotated[
        Path | None, typer.Option(help="folder with the raw files; else LLAMAREC_DATA, then downloads")
    ] = None,
) -> None:
    """Read and preprocess a data set, and print its row of Table 2."""
    # imported here, as torch and transformers below, so that `--help` answers at once
    import pandas as pd

    from llamarec_core.data import load_dataset

    statistics = load_dataset(name, folder=folder).statistics()
    typer.echo(pd.DataFrame([statistics]).to_string(index=False))


@app.command()
def recommend(
    history: Annotated[list[str], typer.Argument(help="titles or item ids, oldest first")],
    dataset: Annotated[str, typer.Option(help="a data set that the profile has run")] = "ml-100k-1998",
    profile: Annotated[str, typer.Option(help="a profile's name or file")] = "quick",
    count: Annotated[int, typer.Option(help="length of the list")] = 10,
) -> None:
    """Rank what to recommend after a history, with the trained retriever and the tuned ranker."""
    from llamarec_core.recommend import Recommender

    ranked = Recommender(profile=profile, dataset=dataset).recommend(history, count=count)
    typer.echo(ranked.to_string(index=False, formatters={"probability": "{:.3f}".format}))


def main() -> None:
    """Run the command line; an InputError becomes one sentence and exit status 2."""
    try:
        app()
    except InputError as error:
        typer.echo(f"llamarec: {error}", err=True)
        sys.exit(2)
