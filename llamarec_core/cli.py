"""The command line.

``llamarec data`` says what a data set holds and what was dropped, ``llamarec train`` trains one retriever of a
profile's grid, ``llamarec fit`` trains a recommender on data of your own, ``llamarec recommend`` asks it, and
``llamarec verify`` checks the committed results.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamarec_core.files import InputError

if TYPE_CHECKING:
    from llamarec_core.settings import Profile

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


Given = Annotated[
    list[str] | None, typer.Option("--setting", "-s", help="change a setting, e.g. ranker.title_tokens=32; repeatable")
]


@app.command()
def fit(
    folder: Annotated[Path, typer.Argument(help="holds interactions.csv and items.csv of your own")],
    out: Annotated[Path, typer.Option(help="where the recommender goes; training goes on in OUT.training if killed")],
    profile: Annotated[str, typer.Option(help="a profile's name or file")] = "small",
    minutes: Annotated[float | None, typer.Option(help="time budget of the ranker's tuning")] = None,
    start_from: Annotated[Path | None, typer.Option(help="folder of an adapter to start from")] = None,
    columns: Annotated[str | None, typer.Option(help="names of your columns: user_id=uid,title=name")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of every random draw")] = 0,
    settings: Given = None,
) -> None:
    """Train a recommender on data of your own, and say on held-out users what it is worth."""
    from llamarec_core.data import describe, load_dataset
    from llamarec_core.recommender import Recommender, checked_place

    out = checked_place(out)
    whole, name = _profile(profile), folder.resolve().name
    chosen = whole.for_dataset(name).given(settings or ())
    dataset = load_dataset(name, folder=folder, columns=columns or whole.columns(name))
    typer.echo(describe(dataset))
    work = out.with_name(f"{out.name}.training")
    recommender = Recommender.train(
        dataset, chosen, folder=work, seed=seed, minutes=minutes, start_from=start_from, progress=True
    )
    recommender.save(out)
    typer.echo(recommender.summary())
    typer.echo(f"The recommender is in {out}; the curves of its training are in {work}.")


@app.command()
def recommend(
    history: Annotated[list[str] | None, typer.Argument(help="titles or item ids, oldest first")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="a recommender's folder; else the study's own for DATASET and PROFILE")
    ] = None,
    user: Annotated[str | None, typer.Option(help="instead of a history: a user of the data set")] = None,
    users: Annotated[str | None, typer.Option(help="`all`: every user of the data set; needs --output")] = None,
    count: Annotated[int, typer.Option(help="length of a list")] = 10,
    order: Annotated[str, typer.Option(help="fused, ranker or retriever")] = "fused",
    exclude: Annotated[list[str] | None, typer.Option(help="a title or id to leave out; repeatable")] = None,
    only: Annotated[list[str] | None, typer.Option(help="a title or id to choose from; repeatable")] = None,
    output: Annotated[Path | None, typer.Option(help="write to a .parquet or .csv file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    dataset: Annotated[str, typer.Option(help="a data set that the profile has run")] = "ml-100k-1998",
    profile: Annotated[str, typer.Option(help="a profile's name or file")] = "quick",
    settings: Given = None,
) -> None:
    """Recommend items after a history, for a user, or for all users, with a trained retriever and ranker."""
    from llamarec_core.files import replacing
    from llamarec_core.recommender import Recommender

    if sum(map(bool, (history, user is not None, users))) != 1 or users not in (None, "all"):
        raise InputError("Give either a history of titles or ids, or --user ID, or --users all.")
    if output is not None and output.suffix not in (".parquet", ".csv"):
        raise InputError(f"{output} is neither a .parquet nor a .csv file.")
    if users and output is None:
        raise InputError("Say where the recommendations for all users go, e.g. --output recommendations.parquet.")
    if source is None:
        recommender = Recommender.of_study(profile, dataset, settings=settings or ())
    else:
        recommender = Recommender.load(source, settings=settings or ())
    asked = recommender.dataset.user_ids if users else [history or user]
    ranked = recommender.recommend_users(
        asked, count, exclude=exclude or (), only=only, order=order, progress=users is not None
    )
    ranked = ranked if users or user else ranked.drop(columns="user")
    if output is not None:
        with replacing(output) as temporary:
            ranked.to_parquet(temporary) if output.suffix == ".parquet" else ranked.to_csv(temporary, index=False)
        typer.echo(f"{len(ranked)} recommendations for {len(asked)} users are in {output}.")
    elif as_json:
        typer.echo(ranked.to_json(orient="records", indent=2, force_ascii=False))
    else:
        typer.echo(ranked.to_string(index=False, float_format="{:.3f}".format))


def _profile(name: str) -> "Profile":
    from llamarec_core.paths import find_profile, find_root
    from llamarec_core.settings import load_profile

    by_path = name.endswith((".yaml", ".yml"))  # needs no copy of the study
    return load_profile(Path(name) if by_path else find_profile(name, root=find_root()))


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
