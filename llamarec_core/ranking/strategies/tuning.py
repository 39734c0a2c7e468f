"""Tuning of strategies that answer in text: the verbalizer's loop with another example, loss and validation.

    L = − mean over the answer's tokens of log softmax(logits before the token)[token]

Examples are the same prefixes, targets and negatives as the verbalizer's; what a strategy makes of them is its
:meth:`~llamarec_core.ranking.strategies.Strategy.example`.
"""

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from llamarec_core.files import InputError
from llamarec_core.ranking.batches import IGNORED, Batch
from llamarec_core.ranking.strategies.strategy import Strategy, answer_rows
from llamarec_core.ranking.tuning import Tuning
from llamarec_core.ranking.verbalizer import pad
from llamarec_core.settings import RankerSettings


class TextTuning(Tuning):
    """A tuning of a strategy; ``answers`` in its curve counts the tokens of answers.

    Args: as of :class:`~llamarec_core.ranking.tuning.Tuning`, with a strategy as the ranker.
    """

    def _batch(self, rows: np.ndarray) -> Batch:
        examples = [self._example(row) for row in rows]
        # what is asked for is the token after each beginning of the answer
        ends = [[len(prompt) + place for place in range(len(answer))] for prompt, answer in examples]
        longest = max(map(len, ends))
        lengths = [of_row + [1] * (longest - len(of_row)) for of_row in ends]
        targets = [answer + [IGNORED] * (longest - len(answer)) for _, answer in examples]
        sequences = [prompt + answer[:-1] for prompt, answer in examples]
        device = self.accelerator.device
        return Batch(
            tokens=pad(sequences, device=device)[0],
            lengths=torch.tensor(lengths, device=device),
            targets=torch.tensor(targets, device=device),
            n_tokens=sum(map(len, sequences)),
        )

    def _loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)

    def _validation_scores(self, rows: pd.DataFrame) -> np.ndarray:
        return answer_rows(self.ranker, self.dataset, rows, "validation").scores

    def _example(self, row: int) -> tuple[list[int], list[int]]:
        users, positions, candidates = (part[row] for part in self._examples.parts())
        history = self.dataset.train(int(users[0]))[: positions[0]].tolist()
        return self.ranker.example(int(row), history, candidates.tolist(), int(self._examples.answers[row, 0, 0]))


def refuse_label_settings(strategy: type[Strategy], settings: RankerSettings) -> None:
    """Refuse settings of the tuning that make sense for labels only.

    Raises:
        InputError: there is one.
    """
    plain = RankerSettings()
    for name in ("warmup", "temperature", "soft_targets", "users_per_prompt", "targets_per_user"):
        if getattr(settings, name) != getattr(plain, name):
            raise InputError(
                f"{name}: {getattr(settings, name)} is for the verbalizer's labels, which {strategy.name!r} does not "
                f"have: leave it at {getattr(plain, name)}."
            )
