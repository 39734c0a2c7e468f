"""Check the study of LlamaRec, retrain its retrievers, or train and query a recommender of your own."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option, Typer, echo

from llamarec_core.files import InputError
from llamarec_core.paths import find_profile, find_root

app = Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

ProfileName = Annotated[str, Option(help="a profile's name or file")]
Columns = Annotated[str | None, Option(help="names of your columns: user_id=uid,title=name")]
Given = Annotated[
    list[str] | None, Option("--setting", "-s", help="change a setting, e.g. ranker.title_tokens=32; repeatable")
]


@app.command()
def data(
    name: Annotated[str, Argument(help="ml-100k-1998, ml-100k, beauty, games, or a folder of your own")],
    folder: Annotated[Path | None, Option(help="folder of the raw files; else LLAMAREC_DATA, then a download")] = None,
    columns: Columns = None,
    profile: Annotated[str | None, Option(help="report on titles as this profile cuts them, too (slower)")] = None,
) -> None:
    """Read and preprocess a data set; say what was read and dropped, and print its row of Table 2."""
    # what a command needs is imported in it, so that `--help` and an error are answered at once
    import pandas as pd

    from llamarec_core.data import describe, load_dataset
    from llamarec_core.data.sources import KNOWN

    if folder is None and name not in KNOWN and ("/" in name or Path(name).is_dir()):
        folder, name = Path(name), Path(name).resolve().name
    settings = profile and _profile(profile, name)
    dataset = load_dataset(name, folder=folder, columns=columns or (settings and settings.columns(name)))
    echo(describe(dataset, titles=_cut_titles(dataset, settings) if settings else {}))
    echo(pd.DataFrame([dataset.statistics()]).to_string(index=False))


@app.command()
def train(
    dataset: Annotated[str, Argument(help="a data set of the profile's grid")],
    method: Annotated[str, Argument(help="lrurec, sasrec, bert4rec, narm or item_knn")],
    profile: ProfileName = "small",
    weight_decay: Annotated[float | None, Option(help="AdamW's weight decay; else the grid's choice")] = None,
    dropout: Annotated[float | None, Option(help="dropout probability; else the grid's choice")] = None,
    seed: Annotated[int | None, Option(min=0, help="a whole number; else the profile's")] = None,
) -> None:
    """Train one point of a retriever's grid, or train and test the point that the grid chose."""
    from llamarec_core.grid import Grid
    from llamarec_core.settings import load_profile

    root = find_root()
    grid = Grid(load_profile(find_profile(profile, root=root)), dataset, method, root)
    seed = grid.profile.seed if seed is None else seed
    if (weight_decay is None) != (dropout is None):
        raise InputError("Give --weight-decay and --dropout together, or neither, to take the grid's choice.")
    settings = grid.chosen() if dropout is None else grid.retriever(weight_decay=weight_decay, dropout=dropout)
    record = grid.train(settings, seed=seed)
    echo(f"{method} on {dataset}: validation Recall@10 {record['recall@10']:.4f}")
    if dropout is None:
        echo(grid.test(settings, seed=seed).relative_to(root))


@app.command()
def fit(
    folder: Annotated[Path, Argument(help="a folder with your interactions.csv and items.csv")],
    out: Annotated[Path, Option(help="folder for the recommender; a killed training resumes from OUT.training")],
    profile: ProfileName = "small",
    minutes: Annotated[float | None, Option(help="minutes to tune the ranker for")] = None,
    start_from: Annotated[Path | None, Option(help="folder of an adapter to start from")] = None,
    columns: Columns = None,
    seed: Annotated[
        int | None, Option(min=0, max=2**63 - 1, help="seed of every random draw; else the profile's")
    ] = None,
    settings: Given = None,
) -> None:
    """Train a recommender on your own data, and measure it on held-out users."""
    from llamarec_core.data import describe, load_dataset
    from llamarec_core.recommender import Recommender, checked_place

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("`llamarec fit` runs in one process: start it without torchrun.")
    out, name = checked_place(out), folder.resolve().name
    given = [f"ranker.minutes={minutes}"] if minutes is not None else []
    given += [f"ranker.start_from={str(start_from)!r}"] if start_from else []
    chosen = _profile(profile, name).given([*(settings or ()), *given])
    if other := [text for text in settings or () if not text.startswith(("retriever.", "ranker."))]:
        raise InputError(f"{other[0]!r} is no setting of this command: change those of the retriever or of the ranker.")
    seed = chosen.seed if seed is None else seed
    start = chosen.ranker.start_from
    if start and not Path(start, "adapter_model.safetensors").is_file():
        remedy = "name a folder with adapter_model.safetensors, or start without one by -s ranker.start_from=null"
        raise InputError(f"{start} holds no adapter to start from: {remedy}.")
    dataset = load_dataset(name, folder=folder, columns=columns or chosen.columns(name))
    echo(describe(dataset, titles=_cut_titles(dataset, chosen)))  # a missing backbone is noticed here, not hours later
    work = out.with_name(f"{out.name}.training")
    recommender = Recommender.train(dataset, chosen, folder=work, seed=seed)
    recommender.save(out)
    echo(recommender.summary())
    echo(f"The recommender is in {out}; the curves of its training are in {work}.")
    echo(f"Ask it: llamarec recommend --from {shlex.quote(str(out))} --user {shlex.quote(dataset.user_ids[0])}")


@app.command()
def recommend(
    history: Annotated[list[str] | None, Argument(help="titles or item ids, oldest first")] = None,
    source: Annotated[
        Path | None, Option("--from", help="a recommender's folder; else the study's own for DATASET and PROFILE")
    ] = None,
    user: Annotated[str | None, Option(help="a user of the data set, in place of a history")] = None,
    users: Annotated[str | None, Option(help="`all`: every user of the data set; needs --output")] = None,
    count: Annotated[int | None, Option(help="items per list; else 10, or as many as the ranker reads")] = None,
    order: Annotated[str, Option(help="fused, ranker or retriever")] = "fused",
    exclude: Annotated[list[str] | None, Option(help="a title or id to leave out; repeatable")] = None,
    only: Annotated[list[str] | None, Option(help="a title or id to choose from; repeatable")] = None,
    output: Annotated[Path | None, Option(help="write to a .parquet or .csv file")] = None,
    as_json: Annotated[bool, Option("--json", help="print JSON")] = False,
    dataset: Annotated[str, Option(help="a data set that the profile has been run on")] = "ml-100k-1998",
    profile: ProfileName = "quick",
    settings: Given = None,
) -> None:
    """Recommend items for a history, a user or all users, with a trained retriever and ranker."""
    from llamarec_core.files import replacing
    from llamarec_core.recommender import Recommender

    if sum(map(bool, (history, user is not None, users))) != 1 or users not in (None, "all"):
        raise InputError("Give either a history of titles or ids, or --user ID, or --users all.")
    if output is not None and output.suffix not in (".parquet", ".csv"):
        raise InputError(f"{output} is neither a .parquet nor a .csv file.")
    if users and output is None:
        raise InputError("Say where the recommendations for all users go, e.g. --output recommendations.parquet.")
    place = (source,) if source else (profile, dataset)
    recommender = (Recommender.load if source else Recommender.of_study)(*place, settings=settings or ())
    asked = recommender.dataset.user_ids if users else [history or user]
    options = {"exclude": exclude or (), "only": only, "order": order, "progress": users is not None}
    ranked = recommender.recommend_users(asked, count, **options)
    ranked = ranked.drop(columns="user") if history else ranked
    if os.environ.get("RANK", "0") != "0":  # of several processes of torchrun, the first one answers
        return
    if output is not None:
        with replacing(output) as temporary:
            ranked.to_parquet(temporary) if output.suffix == ".parquet" else ranked.to_csv(temporary, index=False)
        echo(f"{len(ranked)} recommendations for {len(asked)} users are in {output}.")
    elif as_json:
        echo(ranked.to_json(orient="records", indent=2, force_ascii=False))
    else:
        echo(ranked.to_string(index=False, float_format="{:.3f}".format))


@app.command()
def verify(
    profiles: Annotated[list[str] | None, Argument(help="profiles with results; all of them if none is named")] = None,
    write: Annotated[bool, Option("--write", help="write results/manifest.json if all else is right")] = False,
) -> None:
    """Recompute every table that follows from the committed ranks, and check all hashes and commits."""
    from llamarec_core import verify

    echo(verify.verify(find_root(), profiles=profiles or (), write=write))


def _cut_titles(dataset: Any, profile: Any) -> dict[str, list[str]]:
    """Return the titles as the profile's ranker cuts them, for :func:`llamarec_core.data.describe`."""
    from llamarec_core.ranking.backbone import load_tokenizer
    from llamarec_core.ranking.prompt import PromptBuilder

    titles = PromptBuilder(load_tokenizer(profile.ranker), dataset.titles, profile.ranker).titles
    return {f"cut at {profile.ranker.title_tokens} tokens": titles[1:]}


def _profile(name: str, dataset: str) -> Any:
    """Return a profile for one data set; the adapter that it starts from is counted from its copy of the study."""
    from llamarec_core.settings import load_profile

    file = find_profile(name)
    profile = load_profile(file).for_dataset(dataset)
    start_from = profile.ranker.start_from
    if start_from is None or Path(start_from).is_absolute():
        return profile
    return profile.given([f"ranker.start_from={str(find_root(file.parent) / start_from)!r}"])


def main() -> None:
    """Run the command line; an InputError becomes one sentence and exit status 2."""
    try:
        app()
    except InputError as error:
        echo(f"llamarec: {error}", err=True)
        sys.exit(2)
