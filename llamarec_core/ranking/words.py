"""What shared words tell: an order of the candidates, and nats that a language model should beat."""

from collections.abc import Sequence
from itertools import chain, islice

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.special import log_softmax

from llamarec_core.data import Dataset
from llamarec_core.ranking.backbone import load_tokenizer
from llamarec_core.ranking.examples import TrainingExamples
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.rerank import conditional_logit
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.settings import RankerSettings


def title_overlap(dataset: Dataset, candidates: Candidates, split: str, *, history_length: int = 20) -> np.ndarray:
    """Score candidates by words alone: the largest cosine of their titles' TF-IDF vectors with one of the history."""
    vectors = _tf_idf(dataset.titles)
    scores = np.empty(candidates.items.shape)
    for row, (user, items) in enumerate(zip(candidates.users, candidates.items, strict=True)):
        history = dataset.history(int(user), split)[-history_length:]
        scores[row] = (vectors[items] @ vectors[history].T).toarray().max(axis=1)
    return scores


def shared_word_nats(
    dataset: Dataset, settings: RankerSettings, *, lengths: Sequence[int], answers: int, seed: int
) -> pd.DataFrame:
    """Return what shared words tell of held-out answers, for titles cut to each of some lengths in tokens.

    The questions are those of the meter (:mod:`~llamarec_core.ranking.verbalizer`), and so is the unit: ``nats`` an
    answer over the list's prior, with the standard error ``nats_se``. A conditional logit reads two numbers of each
    candidate: the largest cosine of its TF-IDF vector with a title of the history, and that with the last title.
    ``alike`` is the share of items that have the cut title of another.
    """
    examples = TrainingExamples(dataset, settings.changed({"meter_answers": answers}), dataset.titles, seed=seed)
    drawn = (examples.draw_held_out(number) for number in range(len(examples.held_out)))
    asked = list(islice(chain.from_iterable([(of, question) for question in of.questions] for of in drawn), answers))
    chosen = np.stack([question.answer for _, question in asked])  # bool (n, n_candidates)
    prior = log_softmax([np.where(question.left_out, -np.inf, question.log_prior) for _, question in asked], axis=1)
    numbers, rows = {title: number for number, title in enumerate(dataset.titles)}, []
    tokenizer = load_tokenizer(settings)
    for length in lengths:
        titles = PromptBuilder(tokenizer, dataset.titles, settings.changed({"title_tokens": length})).titles
        vectors = _tf_idf(titles)
        features = np.empty((2, *chosen.shape))
        for row, (example, question) in enumerate(asked):
            history = vectors[[numbers[title] for title in question.titles]]
            cosines = (vectors[example.candidates] @ history.T).toarray()  # (n_candidates, history)
            features[:, row] = cosines.max(axis=1), cosines[:, -1]
        gains = conditional_logit(features, chosen, prior)[1] - prior[chosen]
        alike = pd.Series(titles[1:]).duplicated(keep=False).mean()
        said = {"nats": gains.mean(), "nats_se": gains.std() / len(gains) ** 0.5, "answers": len(gains)}
        rows.append({"dataset": dataset.name, "title_tokens": length, "alike": alike} | said)
    return pd.DataFrame(rows)


def _tf_idf(titles: Sequence[str]) -> csr_matrix:
    """Return the titles' TF-IDF vectors, ``(n, words)``; zeros where none has a word of two letters."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import

    try:
        return TfidfVectorizer().fit_transform(titles)
    except ValueError:  # "empty vocabulary"
        return csr_matrix((len(titles), 1))
