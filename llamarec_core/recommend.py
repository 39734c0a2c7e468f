"""From a history to a ranked list with probabilities: both stages, as a service would call them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from llamarec_core.data import Dataset, find_item, load_dataset
from llamarec_core.files import InputError
from llamarec_core.paths import find_root
from llamarec_core.ranking import load_ranker
from llamarec_core.retrieval import load_retriever, top_candidates
from llamarec_core.study import Run


class Recommender:
    """The trained retriever and the tuned ranker of one data set, profile and seed, from the weights among the results.

    The repository holds the weights of the runs that it shows, so that nothing has to be trained first.

    Raises:
        InputError: the study has not been run for them.
    """

    def __init__(self, *, profile: str = "quick", dataset: str = "ml-100k-1998", seed: int | None = None) -> None:
        run = Run("recommend", profile=profile, dataset=dataset, seed=seed, root=find_root())
        self.settings = run.profile
        self.dataset: Dataset = run.load_dataset() if run.dataset_folder().is_dir() else load_dataset(dataset)
        self.retriever = load_retriever(self.dataset, run.profile.retriever, run.weights)
        self.ranker = load_ranker(self.dataset, run.profile.ranker, run.weights)

    def recommend(self, history: Sequence[str], *, count: int = 10) -> pd.DataFrame:
        """Rank the candidates for a history.

        Args:
            history: titles or source ids of the items, oldest first.
            count: rows to return, at most the number of candidates.

        Returns:
            One row a recommendation, best first, with ``rank``, ``item_id``, ``title``, ``probability`` (the
            verbalizer's softmax over all candidates) and ``retriever_rank``.

        Raises:
            InputError: the history is empty, or an item is unknown (the nearest titles are named).
        """
        if not history:
            raise InputError("The history is empty: give at least one title or item id.")
        size = self.settings.ranker.candidates
        if not 1 <= count <= size:
            raise InputError(f"{count} recommendations were asked for: choose from 1 to {size}.")
        items = np.array([find_item(self.dataset, item) for item in history], dtype=np.int32)
        candidates = top_candidates(self.retriever, items, k=size)
        probabilities = self.ranker.probabilities([items], [candidates])[0]
        # a stable sort leaves the retriever's order among equals
        order = np.argsort(-probabilities, kind="stable")[:count]
        return pd.DataFrame(
            {
                "rank": np.arange(1, len(order) + 1),
                "item_id": [self.dataset.item_ids[candidates[place]] for place in order],
                "title": [self.dataset.titles[candidates[place]] for place in order],
                "probability": probabilities[order],
                "retriever_rank": order + 1,
            }
        )
