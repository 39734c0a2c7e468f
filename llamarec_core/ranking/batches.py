"""Batches of the tuning: what one forward pass reads, what it is asked, and the loss (LlamaRec, section 3.2.3).

The paper's loss is the cross-entropy of the label's token over the whole vocabulary at the prompt's last position. This
study adds a loss over the labels alone (``loss: labels``)::

    log p = log softmax(z / T + log q),        L = − mean over questions of Σ_i answer_i log p_i

z are the labels' logits, T a temperature, and q the list's prior (:mod:`~llamarec_core.ranking.examples`). Names want
sharp logits and next items soft ones, so that names have a temperature of 1 whatever the setting.

The *meter* of learning is how much better the answers are predicted than by the prior, in nats an answer::

    mean over questions of log p(answer) − log q(answer)
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from llamarec_core.ranking.examples import Example, Question
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.verbalizer import pack


@dataclass(frozen=True)
class Batch:
    """What one forward pass reads and is asked; ``n`` questions over all its examples."""

    prompts: dict[str, torch.Tensor | None]
    """As :func:`~llamarec_core.ranking.verbalizer.pack` returns them, a row an example, a prompt a question."""
    asked: torch.Tensor
    """Each question's index among all rows' prompts, ``(n,)``: rows with fewer questions repeat their last."""
    questions: list[Question]
    n_tokens: int
    """Without padding."""

    @property
    def n_answers(self) -> int:
        """Number of next-item questions."""
        return sum(question.kind == "next" for question in self.questions)


def make_batch(prompts: PromptBuilder, examples: list[Example], *, device: torch.device | str) -> Batch:
    """Return the batch of some examples; what the prompts of an example begin with is read once."""
    beginnings, endings = [], []
    for example in examples:
        candidates = [prompts.titles[item] for item in example.candidates]
        texts = [prompts.template.render(question.titles, candidates) for question in example.questions]
        shared, of_example = prompts.encode_shared(texts)
        beginnings.append(shared)
        endings.append(of_example)
    width = max(map(len, endings))
    asked = [row * width + prompt for row, of_row in enumerate(endings) for prompt in range(len(of_row))]
    return Batch(
        prompts=pack(beginnings, endings, device=device),
        asked=torch.tensor(asked, device=device),
        questions=[question for example in examples for question in example.questions],
        n_tokens=sum(map(len, beginnings)) + sum(len(ending) for of_row in endings for ending in of_row),
    )


def vocabulary_loss(logits: torch.Tensor, batch: Batch, target_ids: torch.Tensor) -> torch.Tensor:
    """Return each question's cross-entropy over the whole vocabulary, ``(n,)``, given logits ``(rows, k, vocabulary)``.

    The labels of what else the user chose are left out. ``target_ids`` are the labels' tokens, ``(n_candidates,)``.
    """
    answers, left_out, _ = _stacked(batch, logits.device)
    read = logits.flatten(0, 1)[batch.asked]  # (n, vocabulary)
    labels = read[:, target_ids].masked_fill(left_out, -torch.inf)
    read = read.index_copy(1, target_ids, labels)
    return F.cross_entropy(read, target_ids[answers.argmax(1)], reduction="none")


def label_log_probabilities(
    logits: torch.Tensor, batch: Batch, *, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return log p, log q and the answers of each question, ``(n, n_candidates)`` each.

    ``logits`` are those of the labels, ``(rows, k, n_candidates)``; what else the user chose is left out (−∞).
    ``temperature`` is T of all questions but those by name.
    """
    answers, left_out, log_prior = _stacked(batch, logits.device)
    by_name = torch.tensor([question.kind == "name" for question in batch.questions], device=logits.device)
    divisor = torch.where(by_name, 1.0, temperature)[:, None]
    prior = log_prior.masked_fill(left_out, -torch.inf)
    return (logits.flatten(0, 1)[batch.asked] / divisor + prior).log_softmax(-1), prior.log_softmax(-1), answers


def expected(answers: torch.Tensor, log_probabilities: torch.Tensor) -> torch.Tensor:
    """Return Σ_i answer_i · log p_i of each question, ``(n,)``, with 0 · −∞ meant as 0."""
    return (answers * log_probabilities.masked_fill(answers == 0, 0.0)).sum(-1)


def _stacked(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the questions' answers, what is left out, and log priors, ``(n, n_candidates)`` each."""
    columns = ("answer", "left_out", "log_prior")
    stacked = (np.stack([getattr(question, column) for question in batch.questions]) for column in columns)
    answers, left_out, log_prior = (torch.from_numpy(values).to(device) for values in stacked)
    return answers, left_out, log_prior
