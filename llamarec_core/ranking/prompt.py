"""Prompts: a history and its candidates as the token ids that the ranker reads (LlamaRec, section 3.2.2).

A prompt is an instruction, a history of titles, candidates labelled A … T, and at the very end a line break,
after which the model's next token should be the label of the item to recommend.

Titles are tokenized once per data set and prompts are put together from token ids, so that
building a prompt costs next to nothing. Every piece of a prompt but the first begins with white
space: neither byte-level BPE (SmolLM2) nor SentencePiece (Llama-2) merges a space or a line break
into the word before it, so the pieces' tokens are those of the whole text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from string import ascii_uppercase

import numpy as np
from transformers import PreTrainedTokenizerBase

from llamarec_core.files import InputError
from llamarec_core.settings import MAX_CANDIDATES, RankerSettings

LABELS = ascii_uppercase[:MAX_CANDIDATES]
"""The candidates' labels, A … T."""

_ANCHOR = "a"  # stands before a piece while it is tokenized, as some word does in the prompt


@dataclass(frozen=True)
class Template:
    """The wording of a prompt: opening, history, bridge, candidates, closing.

    Each title follows its mark and a space; ``separator`` stands between two entries. All parts but
    the opening begin with white space, and the closing ends with the line break that the label follows.
    """

    opening: str
    history_mark: str
    """Before a title of the history; ``{number}`` counts from 1."""
    bridge: str
    candidate_mark: str
    """Before a candidate's title; ``{label}`` is its letter."""
    closing: str
    separator: str = ""
    candidates_first: bool = False
    """The candidates stand before the history: opening, candidates, bridge, history, closing."""


TEMPLATES = {
    "ranking": Template(
        opening="[Instruction] Here is the purchase history of a user:",
        history_mark="\n-",
        bridge="\n\nPlease rank the following candidate items based on the user's preferences:",
        candidate_mark="\n{label}.",
        closing="\n\nThe most suitable item to recommend next is:\n",
    ),
    # as published, but for the space before the semicolon, without which it would merge with a title's last token
    "alpaca": Template(
        opening="### Instruction:\nGiven user history in chronological order, recommend an item from the candidate "
        "pool with its index letter.\n\n### Input:\nUser history:",
        history_mark=" ({number})",
        bridge=" ; \n Candidate pool:",
        candidate_mark=" ({label})",
        closing="\n\n### Response:\n",
        separator=" \n",
    ),
    # what closes it also opens every title but the first: a history's beginning is the beginning of the prompt
    "candidates_first": Template(
        opening="[Instruction] Here are the candidate items:",
        history_mark="\n-",
        bridge="\n\nFor each purchase of a user, name the candidate most suitable to recommend next:",
        candidate_mark="\n{label}.",
        closing="\n",
        candidates_first=True,
    ),
}
"""The prompts' wordings by name; ``alpaca`` is the paper's, ``candidates_first`` this study's for small backbones."""


@dataclass(frozen=True)
class SharedPrompt:
    """Several users' prompts that begin with one list of candidates: what training reads where a list serves many.

    A history's beginning is the beginning of its prompt, so that one reading of a history asks after each title.
    """

    beginning: list[int]
    """The tokens that all prompts begin with."""
    histories: list[list[int]]
    """The tokens that follow in each user's prompt."""
    ends: list[list[int]]
    """For each history and title: after how many of the history's tokens the prompt that ends there is complete."""


class PromptBuilder:
    """Builds the prompts of one data set for one tokenizer.

    Attributes:
        tokenizer: the backbone's tokenizer.
        title_tokens: token ids of each title as prompts list it, by item id.
        label_ids: the token ids whose logits the verbalizer reads, one for each of :data:`LABELS`;
            they follow ``settings.label_tokens``.
        target_ids: the token ids that stand for the labels inside a prompt, which training teaches.
            Both are the same unless the settings ask for the published lookup of the letter alone.

    Args:
        tokenizer: the backbone's tokenizer.
        titles: title of each item by id, ``titles[0]`` is padding.
        settings: ``template``, ``label_tokens``, ``history_length``, ``title_tokens`` and ``candidates`` are read.

    Raises:
        InputError: the template is unknown, or the tokenizer has no single token of its own for each label.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, titles: Sequence[str], settings: RankerSettings):
        if settings.template not in TEMPLATES:
            raise InputError(f"Unknown template {settings.template!r}: choose from {', '.join(TEMPLATES)}.")
        self.settings = settings
        self.tokenizer = tokenizer
        self._template = template = TEMPLATES[settings.template]
        self.titles = list(titles)
        self._titles = [" " + " ".join(title.split()) for title in titles]
        self.title_tokens = [tokens[: settings.title_tokens] for tokens in self.tokenize(self._titles)]
        self._history_marks = _marks(template.history_mark, template, number=range(1, settings.history_length + 1))
        self._candidate_marks = _marks(template.candidate_mark, template, label=LABELS)
        self._history_mark_tokens = self.tokenize(self._history_marks)
        self._candidate_mark_tokens = self.tokenize(self._candidate_marks)
        self._opening = self.begin(template.opening)
        self._bridge, self._closing = self.tokenize([template.bridge, template.closing])
        self._question, self._line_break = self.tokenize(["\n-", "\n"])
        self.target_ids = self._labels_in_prompt()
        self.label_ids = self.target_ids if settings.label_tokens == "in_prompt" else self._labels_alone()

    def build(self, history: Sequence[int], candidates: Sequence[int]) -> list[int]:
        """Return a prompt's token ids.

        Args:
            history: item ids in the order of time; the last ``history_length`` are listed.
            candidates: item ids in the order of their labels.

        Raises:
            InputError: there are more candidates than labels.
        """
        history = self._checked(history, candidates)
        past = self._entries(self._history_mark_tokens, history)
        listed = self._entries(self._candidate_mark_tokens, candidates)
        first, second = (listed, past) if self._template.candidates_first else (past, listed)
        return [*self._opening, *chain(*first), *self._bridge, *chain(*second), *self._closing]

    def build_shared(self, histories: Sequence[Sequence[int]], candidates: Sequence[int]) -> SharedPrompt:
        """Return the prompts of several histories that follow one list of candidates.

        Args:
            histories: item ids in the order of time, one sequence a user; the last ``history_length`` are listed.
            candidates: item ids in the order of their labels.

        Raises:
            InputError: there are more candidates than labels, or the template puts the history first.
        """
        if not self._template.candidates_first:
            raise InputError(
                f"Template {self.settings.template!r} puts the history first, so that several cannot share a list of "
                "candidates: choose template: candidates_first."
            )
        beginning = [*self._opening, *chain(*self._entries(self._candidate_mark_tokens, candidates)), *self._bridge]
        tokens, ends = [], []
        for history in histories:
            entries = self._entries(self._history_mark_tokens, self._checked(history, candidates))
            tokens.append([*chain(*entries), *self._closing])
            ends.append([int(end) + len(self._closing) for end in np.cumsum([len(entry) for entry in entries])])
        return SharedPrompt(beginning, tokens, ends)

    def build_binding(
        self, pool: Sequence[int], places: Sequence[int], asked: Sequence[Sequence[int]] | None = None
    ) -> tuple[list[int], list[int]]:
        """Return the token ids of a sequence that binds labels to titles, and where its labels are predicted.

        Args:
            pool: item ids in the order of their labels.
            places: which of the pool are asked for, in this order.
            asked: token ids by which each is asked for; by default those of its title.

        Returns:
            The token ids, and for each place asked for the length of the sequence's beginning before its label.
        """
        tokens, before = [*self._opening, *chain(*self._entries(self._candidate_mark_tokens, pool))], []
        for place, title in zip(places, asked or [self.title_tokens[pool[place]] for place in places], strict=True):
            tokens += [*self._question, *title, *self._line_break]
            before.append(len(tokens))
            tokens.append(self.target_ids[place])
        return tokens, before

    def _entries(self, marks: Sequence[list[int]], items: Sequence[int]) -> list[list[int]]:
        """Return the tokens of each title of an enumeration with its mark."""
        return [mark + self.title_tokens[item] for mark, item in zip(marks, items, strict=False)]

    def text(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """Return the prompt of :meth:`build` as text, for people to read."""
        history = self._checked(history, candidates)
        past = [mark + self.title(item) for mark, item in zip(self._history_marks, history, strict=False)]
        listed = [mark + self.title(item) for mark, item in zip(self._candidate_marks, candidates, strict=False)]
        first, second = (listed, past) if self._template.candidates_first else (past, listed)
        return "".join([self._template.opening, *first, self._template.bridge, *second, self._template.closing])

    def length(
        self, *, history_length: int, n_candidates: int, history_title_tokens: float, title_tokens: float
    ) -> float:
        """Return how many tokens a prompt has.

        Args:
            history_length: titles of the history that are listed.
            n_candidates: candidates that are listed.
            history_title_tokens: mean number of tokens of the history's titles.
            title_tokens: of the candidates' titles.
        """
        marks = [*self._history_mark_tokens[:history_length], *self._candidate_mark_tokens[:n_candidates]]
        fixed = [self._opening, self._bridge, self._closing, *marks]
        return sum(map(len, fixed)) + history_length * history_title_tokens + n_candidates * title_tokens

    def title(self, item: int) -> str:
        """Return a title as prompts show it, after a space: as its tokens read if it was cut, else exactly as it is."""
        tokens = self.title_tokens[item]
        if len(tokens) < self.settings.title_tokens:
            return self._titles[item]
        return " " + self.tokenizer.decode(tokens).strip()

    def begin(self, text: str) -> list[int]:
        """Tokenize what a prompt opens with, after the token that begins a sequence if the tokenizer puts one."""
        start, tokens = self.tokenizer.bos_token_id, self.tokenizer(text, add_special_tokens=False).input_ids
        return [start, *tokens] if start is not None and self.tokenizer(text).input_ids[0] == start else tokens

    def tokenize(self, pieces: Sequence[str]) -> list[list[int]]:
        """Tokenize pieces, each of which begins with white space, as they stand in the middle of a text."""
        anchored = self.tokenizer([_ANCHOR, *(_ANCHOR + piece for piece in pieces)], add_special_tokens=False)
        start = len(anchored.input_ids[0])
        return [tokens[start:] for tokens in anchored.input_ids[1:]]

    def _checked(self, history: Sequence[int], candidates: Sequence[int]) -> Sequence[int]:
        """Return the part of the history that the prompt lists."""
        if len(candidates) > len(LABELS):
            raise InputError(
                f"{len(candidates)} candidates are more than the {len(LABELS)} labels A…{LABELS[-1]}: "
                f"rank at most {len(LABELS)} at a time."
            )
        return history[-self.settings.history_length :]

    def _labels_in_prompt(self) -> list[int]:
        """Find each label's token by tokenizing the prompt's end with the label after it."""
        end = self._template.closing
        followed = self.tokenize([end + label for label in LABELS])
        if any(tokens[:-1] != self._closing or len(tokens) == len(self._closing) for tokens in followed):
            raise InputError(
                f"The tokenizer of {self.settings.backbone!r} does not give each label A…{LABELS[-1]} one token "
                f"at the end of the prompt {self.settings.template!r}: choose another backbone or template."
            )
        return self._distinct([tokens[-1] for tokens in followed])

    def _labels_alone(self) -> list[int]:
        """Find each label's token as the authors' code does: the letter is encoded by itself."""
        encoded = self.tokenizer(list(LABELS), add_special_tokens=False).input_ids
        if any(len(tokens) != 1 for tokens in encoded):
            raise InputError(
                f"The tokenizer of {self.settings.backbone!r} gives a letter alone more than one token: "
                "choose label_tokens: in_prompt."
            )
        return self._distinct([tokens[0] for tokens in encoded])

    def _distinct(self, token_ids: list[int]) -> list[int]:
        if len(set(token_ids)) < len(token_ids):
            raise InputError(
                f"The tokenizer of {self.settings.backbone!r} gives two of the labels A…{LABELS[-1]} the same token: "
                "choose another backbone."
            )
        return token_ids


def _marks(mark: str, template: Template, **values: Sequence) -> list[str]:
    """Return the marks of an enumeration, each but the first after the template's separator."""
    ((name, sequence),) = values.items()
    return [
        (template.separator if index else "") + mark.format(**{name: value}) for index, value in enumerate(sequence)
    ]
