"""A recommender to carry away: retriever, ranker and data set in one folder, for one history or for all users.

    Dataset, settings ──train──▶ Recommender ──save──▶ folder ──load──▶ recommend, recommend_users, rank

The folder holds settings, data set, retriever, adapter and what the orders are worth, but not the backbone. It needs no
copy of the study. Items are ordered by both stages, or by one term alone. The probabilities are over the candidates:

    score(i) = log P_ranker(i) + w · log P_retriever(i)        w: fitted on validation users
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from pydantic import Field

from llamarec_core.checked import Settings, read_yaml, validated
from llamarec_core.data import Dataset, changed_files, find_item, load_dataset
from llamarec_core.files import InputError, read_json, replacing, write_json, write_text
from llamarec_core.paths import Paths, find_profile, find_root
from llamarec_core.settings import MAX_CANDIDATES, Profile, RankerSettings, RetrieverSettings, load_profile

if TYPE_CHECKING:
    from llamarec_core.ranking import VerbalizerRanker
    from llamarec_core.retrieval import Retriever

COUNT = 10  #: items of a list, where no number is given
ORDERS = ("fused", "ranker", "retriever")  #: by the sum above, or by one of its two terms alone


class Stages(Settings):
    """What both stages were trained with: ``settings.yaml``."""

    retriever_weight: float  #: w of the order ``fused``
    backbone: dict[str, str] = Field(default_factory=dict)  #: its ``name`` and ``sha256``, for a person to read
    retriever: RetrieverSettings
    ranker: RankerSettings


@dataclass(eq=False)
class Recommender:
    """Both stages of one data set, whose raw files may not have changed, where ``LLAMAREC_DATA`` names their folder."""

    dataset: Dataset
    stages: Stages
    folders: tuple[Path, Path]  #: with ``retriever.safetensors`` and with ``adapter``
    held_out: dict[str, Any] = field(default_factory=dict)  #: of :func:`~llamarec_core.fitting.measure`
    changes: dict[str, Any] = field(default_factory=dict)  #: settings to rank with, other than those of the tuning

    def __post_init__(self) -> None:
        if changed := changed_files(self.dataset):
            remedy = "train it again, or let LLAMAREC_DATA name another folder"
            since = f"changed since this recommender was trained ({', '.join(changed)})"
            raise InputError(f"The data set {self.dataset.name} {since}: {remedy}.")

    @cached_property
    def retriever(self) -> "Retriever":
        """The trained retriever, loaded when it is needed: an unknown title is answered at once."""
        from llamarec_core.retrieval import load_retriever

        return load_retriever(self.dataset, self.stages.retriever, self.folders[0])

    @cached_property
    def ranker(self) -> "VerbalizerRanker":
        """The tuned ranker."""
        from llamarec_core.ranking import load_ranker

        # a backbone that moved is still the one of the tuning, which its hash must show
        settings = self.stages.ranker.changed({k: v for k, v in self.changes.items() if k == "backbone"})
        return load_ranker(self.dataset, settings, self.folders[1], **self.changes)

    @classmethod
    def train(cls, dataset: Dataset, settings: Profile, *, folder: Path, seed: int = 0) -> "Recommender":
        """Train both stages, fit the fusion weight on validation users, and measure all orders on held-out users.

        ``settings`` are a profile's after :meth:`~llamarec_core.settings.Profile.for_dataset`. A training that was
        killed in ``folder``, where its curves lie, goes on there; another training there is refused.
        """
        from llamarec_core.fitting import fit_stages

        folders = Path(folder) / "retriever", Path(folder) / "ranker"
        *models, weight, held_out = fit_stages(dataset, settings.retriever, settings.ranker, folders=folders, seed=seed)
        stages = Stages(retriever_weight=weight, retriever=settings.retriever, ranker=settings.ranker)
        made = cls(dataset, stages, folders, held_out)
        made.retriever, made.ranker = models
        return made

    def save(self, folder: Path) -> None:
        """Write the recommender's folder, whole or not at all; :func:`checked_place` refuses what is in its way."""
        from llamarec_core.ranking.backbone import backbone_name, backbone_sha256

        ranker, backbone = self.stages.ranker, Path(self.stages.ranker.backbone).expanduser()
        place = str(backbone.resolve()) if backbone.is_dir() else ranker.backbone
        known = {"name": backbone_name(ranker), "sha256": backbone_sha256(ranker)}
        ranker = ranker.changed({"backbone": place, "start_from": None})  # which nothing reads again
        stored = self.stages.model_copy(update={"backbone": known, "ranker": ranker}).model_dump(mode="json")
        with replacing(checked_place(folder)) as temporary:
            temporary.mkdir()
            self.dataset.save(temporary / "dataset")
            shutil.copyfile(self.folders[0] / "retriever.safetensors", temporary / "retriever.safetensors")
            shutil.copytree(self.folders[1] / "adapter", temporary / "adapter")
            write_json(temporary / "held_out.json", self.held_out)
            write_text(temporary / "settings.yaml", yaml.safe_dump(stored, sort_keys=False))

    @classmethod
    def load(cls, folder: Path, *, settings: Sequence[str] = ()) -> "Recommender":
        """Load what :meth:`save` wrote; ``settings`` are the ranker's, such as ``ranker.backbone=…`` where it moved."""
        file = Path(folder) / "settings.yaml"
        if not file.is_file():
            raise InputError(f"{folder} holds no recommender: name a folder that `llamarec fit --out` wrote.")
        stages = validated(Stages, read_yaml(file), place=f"{file}: ")
        dataset, held_out = Dataset.load(file.with_name("dataset")), read_json(file.with_name("held_out.json"))
        return cls(dataset, stages, (file.parent, file.parent), held_out, stages.ranker.changes(settings))

    @classmethod
    def of_study(cls, profile: str, dataset: str, *, settings: Sequence[str] = ()) -> "Recommender":
        """Put a recommender together from the weights among the results of the copy of the study that one works in."""
        root = find_root()
        run = load_profile(find_profile(profile, root=root)).for_dataset(dataset)
        paths = Paths(root, run.name, dataset, run.seed)
        prepared = paths.dataset_folder()
        data = Dataset.load(prepared) if prepared.is_dir() else load_dataset(dataset)
        weight = read_json(paths.weights / "retriever_weight.json")["ranker"]
        stages = Stages(retriever_weight=weight, retriever=run.retriever, ranker=run.ranker)
        return cls(data, stages, (paths.weights, paths.weights), changes=run.ranker.changes(settings))

    def summary(self) -> str:
        """Return what the orders are worth on held-out users, and what to doubt, as lines for a person."""
        users, retrieved = self.held_out["users"], self.held_out["retrieved"]
        lines = [f"NDCG@10 on {users} held-out users; the next item of {retrieved} is a candidate:"]
        row = "  {order:14s} {measured:.4f}  [{ci_low:.4f}, {ci_high:.4f}]"
        lines += [row.format(**found) for found in self.held_out["ndcg@10"]]
        return "\n".join(lines + [f"Warning: {warning}" for warning in self.held_out["warnings"]])

    def recommend(self, history: Sequence[str], count: int | None = None, **options: Any) -> pd.DataFrame:
        """Recommend items after one history: :meth:`recommend_users` without the column ``user``."""
        return self.recommend_users([history], count, **options).drop(columns="user")

    def recommend_users(
        self,
        users: Sequence[str | Sequence[str]],
        count: int | None = None,
        *,
        exclude: Iterable[str] = (),
        only: Iterable[str] | None = None,
        order: str = "fused",
        progress: bool = False,
    ) -> pd.DataFrame:
        """Recommend items for many users, or after many histories, in batches; with ``progress`` a bar shows.

        ``users`` are ids of the data set, or histories: titles or ids, oldest first, of which nothing comes back.
        ``count`` is at most what the ranker reads, but for ``order="retriever"``; without it ten, or that many.
        ``exclude`` and ``only`` are titles or ids; a user for whom they leave too few items gets fewer. Returns a row a
        recommendation, best first: ``user`` (the id, or the number of the history from 0),
        ``rank``, ``item_id``, ``title``, ``order``, ``score`` and its terms ``log_p_ranker`` and ``log_p_retriever``.
        """
        size = self.stages.ranker.candidates
        most = self.dataset.n_items if _checked(order) == "retriever" else size
        count = min(COUNT, most) if count is None else count
        if not 1 <= count <= most:
            raise InputError(f"{count} recommendations were asked for: choose from 1 to {most}.")
        if not users:
            raise InputError("No user was named: give at least one user or history.")
        histories = [self._history(user) for user in users]
        allowed = np.full(self.dataset.n_items + 1, only is None)
        allowed[self._items(only or ())] = True
        allowed[[0, *self._items(exclude)]] = False
        listed = self._retrieved(histories, allowed, count=max(count, size))
        found = self._ordered(histories, listed, order, progress=progress).groupby("row").head(count)
        names = [user if isinstance(user, str) else number for number, user in enumerate(users)]
        return self._table(found.assign(user=[names[row] for row in found["row"]]), order)

    def rank(
        self,
        history: Sequence[str],
        candidates: Sequence[str],
        *,
        window: int = MAX_CANDIDATES,
        step: int = MAX_CANDIDATES // 2,
        order: str = "fused",
    ) -> pd.DataFrame:
        """Order candidates from elsewhere, such as a retriever of one's own, as :meth:`recommend` does: best first.

        More than ``window`` are ordered by a window that moves from back to front by ``step`` places; each gets the
        score of its last window. The best ``window − step`` of a consistent ranker reach the front in one pass (Sun et
        al., 2023, arXiv 2304.09542).
        """
        items = np.array(self._items(candidates), dtype=np.int32)
        if len(items) < 2 or len(np.unique(items)) < len(items):
            raise InputError(f"{len(items)} candidates were given: give at least two, each once.")
        if not (2 <= window <= MAX_CANDIDATES and 1 <= step <= window):
            at_most = f"choose a window of 2 to {MAX_CANDIDATES} and a step of 1 to the window"
            raise InputError(f"window {window}, step {step}: {at_most}.")
        past, order = self._history(history), _checked(order)
        scores = self.retriever.score([past]).numpy(force=True)
        passes = []
        for start in [*range(len(items) - window, 0, -step), 0]:
            shown = items[None, start : start + window]
            passes.append(self._ordered([past], _candidates(0, shown, scores[:, shown[0]]), order))
            items[start : start + window] = passes[-1]["item"]
        latest = pd.concat(passes).drop_duplicates("item", keep="last")
        return self._table(latest.set_index("item").loc[items].reset_index(), order)

    def _items(self, names: Iterable[str]) -> list[int]:
        return [find_item(self.dataset, str(name)) for name in names]

    def _history(self, user: str | Sequence[str]) -> np.ndarray:
        """Return the items of a user of the data set, or of a history, int32 (length,)."""
        if not isinstance(user, str):
            if not len(user):
                raise InputError("The history is empty: give at least one title or item id.")
            return np.array(self._items(user), dtype=np.int32)
        if user not in self.dataset.user_numbers:
            raise InputError(f"{self.dataset.name} has no user {user[:100]!r}: give an id of its interactions.")
        return self.dataset.sequence(self.dataset.user_numbers[user])

    def _retrieved(self, histories: Sequence[np.ndarray], allowed: np.ndarray, *, count: int) -> pd.DataFrame:
        """Return each history's best items outside it of those allowed, bool (n_items + 1,)."""
        from llamarec_core.retrieval.candidates import BATCH_SIZE, top

        parts = []
        for start in range(0, len(histories), BATCH_SIZE):
            some = histories[start : start + BATCH_SIZE]
            scores = self.retriever.score(some)  # (batch, n_items + 1)
            scores[:, ~allowed] = -np.inf
            for row, history in enumerate(some):
                scores[row, history.astype(np.int64)] = -np.inf
            best, items = top(scores, min(count, self.dataset.n_items))
            parts.append(_candidates(start, items.numpy(force=True), best.numpy(force=True)))
        listed = pd.concat(parts, ignore_index=True)
        if listed.empty:
            raise InputError("Nothing is left to recommend: exclude fewer items, or choose from more.")
        return listed

    def _ordered(
        self, histories: Sequence[np.ndarray], listed: pd.DataFrame, order: str, *, progress: bool = False
    ) -> pd.DataFrame:
        """Return the candidates of all histories with all their terms, best first; equals stay as they came."""
        if order != "retriever":
            from llamarec_core.ranking.rerank import log_probabilities

            lengths = listed.groupby("row")["item"].transform("size")
            for _, some in listed.groupby(lengths):  # prompts of as many candidates are read together
                rows = some["row"].unique()
                items = some["item"].to_numpy().reshape(len(rows), -1)
                read = self.ranker.probabilities([histories[row] for row in rows], items, progress=progress)
                listed.loc[some.index, "log_p_ranker"] = log_probabilities(read.astype(np.float64)).ravel()
        if order == "fused":
            listed["score"] = listed["log_p_ranker"] + self.stages.retriever_weight * listed["log_p_retriever"]
        else:
            listed["score"] = listed[f"log_p_{order}"]
        return listed.sort_values(["row", "score"], ascending=[True, False])

    def _table(self, found: pd.DataFrame, order: str) -> pd.DataFrame:
        titles, ids = self.dataset.titles, self.dataset.item_ids
        ranks = found.groupby("row").cumcount() + 1
        named = {"item_id": [ids[item] for item in found["item"]], "title": [titles[item] for item in found["item"]]}
        columns = ["user", "rank", "item_id", "title", "order", "score", "log_p_ranker", "log_p_retriever"]
        return found.assign(rank=ranks, order=order, **named).filter(columns).reset_index(drop=True)


def checked_place(folder: Path) -> Path:
    """Return the absolute place of a recommender's folder, where nothing but another recommender may stand."""
    folder = Path(folder).resolve()
    if folder.exists() and not (folder / "settings.yaml").is_file():
        raise InputError(f"{folder} exists and holds no recommender, which alone may be replaced: name another folder.")
    return folder


def _checked(order: str) -> str:
    if order not in ORDERS:
        raise InputError(f"Unknown order {order!r}: choose from {', '.join(ORDERS)}.")
    return order


def _candidates(first: int, items: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """Return the candidates of histories from number ``first`` on, given items and scores (n, k), −inf for none."""
    from scipy.special import log_softmax

    with np.errstate(invalid="ignore"):  # where a user has no candidate left
        log_p = log_softmax(scores.astype(np.float64), axis=1)
    rows = np.arange(first, first + len(items)).repeat(items.shape[1])
    listed = pd.DataFrame({"row": rows, "item": items.ravel(), "log_p_retriever": log_p.ravel()})
    return listed[np.isfinite(listed["log_p_retriever"])]
