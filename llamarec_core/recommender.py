"""A recommender to carry away: retriever, ranker and data set in one folder, for one history or for all users.

    Dataset, settings ──train──▶ Recommender ──save──▶ folder ──load──▶ recommend, recommend_users, rank

The folder holds ``settings.yaml`` (both stages, the fusion weight, the backbone's name and hash), ``dataset/``,
``retriever.safetensors``, ``adapter/`` and ``held_out.json``, but not the backbone. It needs no copy of the study.
"""

import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from pydantic import ValidationError

from llamarec_core.checked import first_fault
from llamarec_core.data import Dataset, changed_files, find_item, load_dataset
from llamarec_core.files import InputError, read_json, read_yaml, replacing, write_json, write_text
from llamarec_core.orders import Order, checked_order, ordered, retrieved, slide
from llamarec_core.paths import Paths, find_profile, find_root
from llamarec_core.settings import MAX_CANDIDATES, Profile, RankerSettings, RetrieverSettings, load_profile

if TYPE_CHECKING:
    from llamarec_core.ranking import VerbalizerRanker
    from llamarec_core.retrieval import Retriever


class Recommender:
    """Both stages of one data set.

    Attributes:
        dataset: items, titles and histories.
        retriever_settings, ranker_settings: what the stages were trained with.
        weight: w of the order ``fused``.
        held_out: what :func:`~llamarec_core.fitting.measure` found on held-out users, or empty.

    Args:
        dataset, retriever, ranker, weight, held_out: the attributes.
        weights: folders with ``retriever.safetensors`` and with ``adapter``.
        changes: settings of the ranker to rank with, other than those of the tuning.
    """

    def __init__(
        self,
        dataset: Dataset,
        retriever: RetrieverSettings,
        ranker: RankerSettings,
        *,
        weights: tuple[Path, Path],
        weight: float,
        held_out: dict[str, Any] | None = None,
        changes: dict[str, Any] | None = None,
    ) -> None:
        self.dataset, self.retriever_settings, self.ranker_settings = dataset, retriever, ranker
        self.weight, self.held_out = weight, held_out or {}
        self._weights, self._changes = weights, changes or {}
        changed = changed_files(dataset)
        if changed:
            raise InputError(
                f"The data set {dataset.name} changed since this recommender was trained ({', '.join(changed)}): "
                "train it again, or let LLAMAREC_DATA name another folder."
            )

    @cached_property
    def retriever(self) -> "Retriever":
        """The trained retriever, loaded when it is needed: an unknown title is answered at once."""
        from llamarec_core.retrieval import load_retriever

        return load_retriever(self.dataset, self.retriever_settings, self._weights[0])

    @cached_property
    def ranker(self) -> "VerbalizerRanker":
        """The tuned ranker."""
        from llamarec_core.ranking import load_ranker

        # a backbone that moved is still the one of the tuning, which its hash must show
        settings = self.ranker_settings.model_copy(update={k: v for k, v in self._changes.items() if k == "backbone"})
        return load_ranker(self.dataset, settings, self._weights[1], **self._changes)

    @classmethod
    def train(
        cls,
        dataset: Dataset,
        settings: Profile,
        *,
        folder: Path,
        seed: int = 0,
        minutes: float | None = None,
        start_from: Path | str | None = None,
        progress: bool = True,
    ) -> "Recommender":
        """Train both stages, fit the fusion weight on validation users, and measure all orders on held-out users.

        Args:
            dataset: all but each user's last two interactions are learnt.
            settings: a profile, after :meth:`~llamarec_core.settings.Profile.for_dataset`.
            folder: of the training, with its curves; a run that was killed goes on from there.
            seed: of every random draw.
            minutes, start_from: the ranker's time budget and the adapter to start from, in place of the profile's.
            progress: show progress bars on stderr.

        Raises:
            InputError: the folder holds another training, or the data are too small for the settings.
        """
        from llamarec_core.fitting import fit_stages

        given = {"minutes": minutes, "start_from": start_from and str(start_from)}
        ranker = settings.ranker.changed({name: value for name, value in given.items() if value is not None})
        weights = Path(folder) / "retriever", Path(folder) / "ranker"
        options = {"folders": weights, "seed": seed, "progress": progress}
        models, weight, held_out = fit_stages(dataset, settings.retriever, ranker, **options)
        made = cls(dataset, settings.retriever, ranker, weights=weights, weight=weight, held_out=held_out)
        made.retriever, made.ranker = models
        return made

    def save(self, folder: Path) -> None:
        """Write the recommender's folder, whole or not at all; :func:`checked_place` refuses what is in its way."""
        from llamarec_core.ranking.backbone import backbone_name, backbone_sha256

        ranker = self.ranker_settings.model_dump(mode="json")
        backbone = Path(ranker["backbone"]).expanduser()
        if backbone.is_dir():
            ranker["backbone"] = str(backbone.resolve())
        settings = {
            "retriever_weight": self.weight,
            "backbone": {"name": backbone_name(self.ranker_settings), "sha256": backbone_sha256(self.ranker_settings)},
            "retriever": self.retriever_settings.model_dump(mode="json"),
            "ranker": ranker | {"start_from": None},  # a folder of this machine, which nothing reads again
        }
        with replacing(checked_place(folder)) as temporary:
            temporary.mkdir()
            self.dataset.save(temporary / "dataset")
            shutil.copyfile(self._weights[0] / "retriever.safetensors", temporary / "retriever.safetensors")
            shutil.copytree(self._weights[1] / "adapter", temporary / "adapter")
            write_json(temporary / "held_out.json", self.held_out)
            write_text(temporary / "settings.yaml", yaml.safe_dump(settings, sort_keys=False))

    @classmethod
    def load(cls, folder: Path, *, settings: Sequence[str] = ()) -> "Recommender":
        """Load what :meth:`save` wrote, from any place.

        Args:
            folder: the recommender's.
            settings: of the ranker, to rank with, as text, e.g. ``ranker.backbone=…`` where a local folder moved.

        Raises:
            InputError: the folder holds no whole recommender, or its raw files changed where ``LLAMAREC_DATA`` is set.
        """
        folder = Path(folder)
        if not (folder / "settings.yaml").is_file():
            raise InputError(f"{folder} holds no recommender: name a folder that `llamarec fit --out` wrote.")
        stored = read_yaml(folder / "settings.yaml")
        try:
            stages = RetrieverSettings(**stored["retriever"]), RankerSettings(**stored["ranker"])
            weight = float(stored["retriever_weight"])
        except ValidationError as error:
            raise InputError(f"{folder / 'settings.yaml'}: {first_fault(error)}") from None
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{folder / 'settings.yaml'} is not a recommender's: train it again.") from None
        options = {"held_out": read_json(folder / "held_out.json"), "changes": stages[1].changes(settings)}
        return cls(Dataset.load(folder / "dataset"), *stages, weights=(folder, folder), weight=weight, **options)

    @classmethod
    def of_study(cls, profile: str, dataset: str, *, settings: Sequence[str] = ()) -> "Recommender":
        """Put a recommender together from the weights among the results of the copy of the study that one works in.

        Raises:
            InputError: this is no copy of the study, or it has not been run for them.
        """
        root = find_root()
        run = load_profile(find_profile(profile, root=root)).for_dataset(dataset)
        paths = Paths(root, run.name, dataset, run.seed)
        prepared = paths.dataset_folder()
        data = Dataset.load(prepared) if prepared.is_dir() else load_dataset(dataset)
        weight = read_json(paths.weights / "retriever_weight.json")["ranker"]
        options = {"weights": (paths.weights, paths.weights), "changes": run.ranker.changes(settings)}
        return cls(data, run.retriever, run.ranker, weight=weight, **options)

    def summary(self) -> str:
        """Return what the orders are worth on held-out users, and what to doubt."""
        from llamarec_core.fitting import told

        return told(self.held_out)

    def recommend(
        self,
        history: Sequence[str],
        count: int = 10,
        *,
        exclude: Iterable[str] = (),
        only: Iterable[str] | None = None,
        order: Order = "fused",
    ) -> pd.DataFrame:
        """Recommend items after one history.

        Args:
            history: titles or source ids, oldest first. Its items are never recommended.
            count: rows to return, at most as many as the ranker reads, but for ``order="retriever"``.
            exclude: titles or ids that are not recommended either, such as what is sold out.
            only: titles or ids to choose from; ``None`` takes the catalogue.
            order: one of :data:`~llamarec_core.orders.ORDERS`.

        Returns:
            One row a recommendation, best first: ``rank``, ``item_id``, ``title``, ``order``, ``score`` (by which they
            are ordered), ``log_p_ranker`` (without ``order="retriever"``) and ``log_p_retriever``, each over the
            candidates.

        Raises:
            InputError: the history is empty, an item is unknown (the nearest titles are named), or nothing is left.
        """
        return self.recommend_users([history], count, exclude=exclude, only=only, order=order).drop(columns="user")

    def recommend_users(
        self,
        users: Sequence[str | Sequence[str]],
        count: int = 10,
        *,
        exclude: Iterable[str] = (),
        only: Iterable[str] | None = None,
        order: Order = "fused",
        progress: bool = False,
    ) -> pd.DataFrame:
        """Recommend items for many users, or after many histories, in batches.

        Args:
            users: ids of users of the data set, whose whole sequences are read, or histories as of :meth:`recommend`.
            count, exclude, only, order: as of :meth:`recommend`.
            progress: show a progress bar.

        Returns:
            The rows of :meth:`recommend`, and before them ``user``: the id, or the number of the history from 0.

        Raises:
            InputError: as :meth:`recommend`, or a user is unknown.
        """
        size = self.ranker_settings.candidates
        checked_order(order)
        most = self.dataset.n_items if order == "retriever" else size
        if not 1 <= count <= most:
            raise InputError(f"{count} recommendations were asked for: choose from 1 to {most}.")
        numbers = {user: number for number, user in enumerate(self.dataset.user_ids)}
        histories = [self._history(user, numbers) for user in users]
        names = [user if isinstance(user, str) else number for number, user in enumerate(users)]
        allowed = np.ones(self.dataset.n_items + 1, dtype=bool)
        if only is not None:
            allowed = np.isin(np.arange(len(allowed)), self._items(only))
        allowed[[0, *self._items(exclude)]] = False
        listed = list(retrieved(self.retriever, histories, allowed, count=max(count, size)))
        reader = None if order == "retriever" else self.ranker
        options = {"weight": self.weight, "order": order, "progress": progress}
        found = ordered(reader, histories, listed, **options)
        frames = [self._frame(*best, order).head(count) for best in found]
        together = pd.concat(frames, ignore_index=True)
        together.insert(0, "user", np.repeat(np.array(names, dtype=object), [len(frame) for frame in frames]))
        return together

    def rank(
        self,
        history: Sequence[str],
        candidates: Sequence[str],
        *,
        window: int = MAX_CANDIDATES,
        step: int = MAX_CANDIDATES // 2,
        order: Order = "fused",
    ) -> pd.DataFrame:
        """Order candidates that came from elsewhere, such as from a retriever of one's own.

        Args:
            history: titles or source ids, oldest first.
            candidates: titles or ids, best first, at least two.
            window: candidates in a prompt.
            step: places by which the window moves.
            order: one of :data:`~llamarec_core.orders.ORDERS`.

        Returns:
            As :meth:`recommend`, one row a candidate, from one pass or, of long lists, as of
            :func:`~llamarec_core.orders.slide`.

        Raises:
            InputError: there are fewer than two candidates, one stands twice or is unknown, or ``window`` or
                ``step`` is out of range.
        """
        items = self._items(candidates)
        if len(items) < 2 or len(set(items)) < len(items):
            raise InputError(f"{len(items)} candidates were given: give at least two, each once.")
        checked_order(order)
        past = self._history(history, {})
        scores = self.retriever.score([past])[0].numpy(force=True)
        listed = np.array(items, dtype=np.int32), scores[items]
        options = {"weight": self.weight, "order": order, "window": window, "step": step}
        reader = None if order == "retriever" else self.ranker
        return self._frame(*slide(reader, past, *listed, **options), order)

    def _items(self, names: Iterable[str]) -> list[int]:
        return [find_item(self.dataset, str(name)) for name in names]

    def _history(self, user: str | Sequence[str], numbers: dict[str, int]) -> np.ndarray:
        """Return the items of a user of the data set, or of a history, int32 (length,)."""
        if not isinstance(user, str):
            if not len(user):
                raise InputError("The history is empty: give at least one title or item id.")
            return np.array(self._items(user), dtype=np.int32)
        if user not in numbers:
            raise InputError(f"{self.dataset.name} has no user {user[:100]!r}: give an id of its interactions.")
        return self.dataset.sequence(numbers[user])

    def _frame(self, items: np.ndarray, parts: pd.DataFrame, order: Order) -> pd.DataFrame:
        told = {
            "rank": np.arange(1, len(items) + 1),
            "item_id": [self.dataset.item_ids[item] for item in items],
            "title": [self.dataset.titles[item] for item in items],
            "order": order,
        }
        return pd.concat([pd.DataFrame(told), parts.reset_index(drop=True)], axis=1)


def checked_place(folder: Path) -> Path:
    """Return the absolute place of a recommender's folder, which may replace another recommender.

    Raises:
        InputError: anything else is there.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not (folder / "settings.yaml").is_file():
        raise InputError(f"{folder} exists and holds no recommender, which alone may be replaced: name another folder.")
    return folder
