"""The command line.

``llamarec data`` says what a data set holds and what was dropped, ``llamarec train`` trains one retriever of a
profile's grid, ``llamarec recommend`` prints a ranked list, and ``llamarec verify`` checks the committed results.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llamarec_core.files import InputError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="ml-100k-1998, ml-100k, beauty, games, or a folder of your own")],
    folder: Annotated[
        Path | None, typer.Option(help="folder with the raw files; else LLAMAREC_DATA, then downloads")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="names of your columns: user_id=uid,title=name")] = None,
    profile: Annotated[str | None, typer.Option(help="also cut titles as this profile's ranker does (slower)")] = None,
) -> None:
    """Read and preprocess a data set; say what was read and dropped, and print its row of Table 2."""
    # imported here, as torch and transformers below, so that `--help` answers at once
    import pandas as pd

    from llamarec_core.data import describe, load_dataset
    from llamarec_core.data.sources import KNOWN

    if folder is None and name not in KNOWN and Path(name).is_dir():
        folder, name = Path(name), Path(name).resolve().name
    if profile is None:
        dataset, titles = load_dataset(name, folder=folder, columns=columns), {}
    else:
        from llamarec_core.ranking.backbone import load_tokenizer
        from llamarec_core.settings import load_profile
        from llamarec_core.study import find_profile, find_root

        settings = load_profile(find_profile(profile, root=find_root())).for_dataset(name)
        dataset, ranker = load_dataset(name, folder=folder, columns=columns or settings.columns(name)), settings.ranker
        tokens = load_tokenizer(ranker)(dataset.titles[1:], add_special_tokens=False)["input_ids"]
        titles = {f"cut at {ranker.title_tokens} tokens": [tuple(title[: ranker.title_tokens]) for title in tokens]}
    typer.echo(describe(dataset, titles=titles))
    typer.echo(pd.DataFrame([dataset.statistics()]).to_string(index=False))


@app.command()
def train(
    dataset: Annotated[str, typer.Argument(help="a data set of the profile's grid")],
    method: Annotated[str, typer.Argument(help="lrurec, sasrec, bert4rec, narm or item_knn")],
    profile: Annotated[str, typer.Option(help="a profile's name or file")] = "small",
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay; else the grid's choice")] = None,
    dropout: Annotated[float | None, typer.Option(help="dropout probability; else the grid's choice")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="a whole number; else the profile's")] = None,
) -> None:
    """Train one point of a retriever's grid, or train and test the point that the grid chose."""
    from llamarec_core.grid import Grid
    from llamarec_core.paths import find_profile, find_root
    from llamarec_core.settings import load_profile

    root = find_root()
    grid = Grid(load_profile(find_profile(profile, root=root)), dataset, method, root)
    seed = grid.profile.seed if seed is None else seed
    if (weight_decay is None) != (dropout is None):
        raise InputError("Give --weight-decay and --dropout together, or neither, to take the grid's choice.")
    given = {"weight_decay": weight_decay, "dropout": dropout}
    settings = grid.chosen() if dropout is None else grid.retriever(**given)
    record = grid.train(settings, seed=seed)
    typer.echo(f"{method} on {dataset}: validation Recall@10 {record['recall@10']:.4f}")
    if dropout is None:
        typer.echo(grid.test(settings, seed=seed).relative_to(root))


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


@app.command()
def verify(
    profiles: Annotated[list[str] | None, typer.Argument(help="profiles with results; none takes all of them")] = None,
    write: Annotated[bool, typer.Option("--write", help="write results/manifest.json when all else fits")] = False,
) -> None:
    """Compute every table again from the committed ranks, and check hashes and the commits behind them."""
    from llamarec_core import verify
    from llamarec_core.paths import find_root

    typer.echo(verify.verify(find_root(), profiles=profiles or (), write=write))


def main() -> None:
    """Run the command line; an InputError becomes one sentence and exit status 2."""
    try:
        app()
    except InputError as error:
        typer.echo(f"llamarec: {error}", err=True)
        sys.exit(2)
