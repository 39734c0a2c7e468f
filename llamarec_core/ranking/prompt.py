"""Prompts: a history and its candidates as the token ids that the ranker reads (LlamaRec, section 3.2.2).

A prompt is an instruction, a history of titles, candidates labelled A … T, and at the end a line break, after which
the model's next token should be the label of the item to recommend. Its token ids are those of its whole text. Titles
are plain text: a cut falls between characters, and no title can smuggle in a special token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from string import ascii_uppercase

from transformers import PreTrainedTokenizerBase

from llamarec_core.files import InputError
from llamarec_core.settings import MAX_CANDIDATES, RankerSettings

LABELS = ascii_uppercase[:MAX_CANDIDATES]
"""The candidates' labels, A … T."""

PLAIN_TEXT = {"add_special_tokens": False, "split_special_tokens": True}  # what looks like a special token is text


@dataclass(frozen=True, kw_only=True)
class Template:
    """The wording of a prompt: opening, history, bridge, candidates, closing, after which the label follows."""

    opening: str
    history_mark: str = "\n-"  # before a title and a space; ``{number}`` counts titles from 1
    bridge: str = ""
    candidate_mark: str = ""  # ``{label}`` is the candidate's letter
    closing: str
    separator: str = ""  # between two titles
    candidate_end: str = ""  # after a candidate's title; ``{label}`` is its letter
    candidates_first: bool = False  # candidates, bridge, history

    def render(self, history: Sequence[str], candidates: Sequence[str]) -> str:
        """Return the text of a prompt that lists these titles."""
        past = self.separator.join(
            f"{self.history_mark.format(number=number)} {title}" for number, title in enumerate(history, start=1)
        )
        listed = self.separator.join(
            f"{self.candidate_mark.format(label=label)} {title}{self.candidate_end.format(label=label)}"
            for label, title in zip(LABELS[: len(candidates)], candidates, strict=True)
        )
        first, second = (listed, past) if self.candidates_first else (past, listed)
        return f"{self.opening}{first}{self.bridge}{second}{self.closing}"


TEMPLATES = {
    "ranking": Template(
        opening="[Instruction] Here is the purchase history of a user:",
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
    # a line break closes every title, so that the beginning of a history is the beginning of a prompt
    "candidates_first": Template(
        opening="[Instruction] Here are the candidate items:",
        bridge="\n\nFor each purchase of a user, name the candidate most suitable to recommend next:",
        candidate_mark="\n{label}.",
        closing="\n",
        candidates_first=True,
    ),
}
"""The prompts' wordings by name. ``alpaca`` is the paper's, ``candidates_first`` and ``label_after`` this study's."""
# a candidate's label follows its title just as the answer follows the history's last title
TEMPLATES["label_after"] = replace(TEMPLATES["candidates_first"], candidate_mark="\n-", candidate_end="\n{label}")


class PromptBuilder:
    """Builds the prompts of one data set for one tokenizer, with a wording of the caller's own if one is given.

    ``titles`` are whole when they come in, ``titles[0]`` for padding; as an attribute they are as prompts show them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        titles: Sequence[str],
        settings: RankerSettings,
        *,
        template: Template | None = None,
    ):
        self.settings, self.tokenizer = settings, tokenizer
        self.template = template or TEMPLATES[settings.template]
        self.titles = self._cut([" ".join(title.split()) for title in titles])

    def text(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """Return the text of a prompt: the last ``history_length`` titles, and candidates in the order of labels."""
        recent = history[-self.settings.history_length :]
        return self.template.render([self.titles[item] for item in recent], [self.titles[item] for item in candidates])

    def build(self, history: Sequence[int], candidates: Sequence[int]) -> list[int]:
        """Return the token ids of :meth:`text`."""
        return self.encode([self.text(history, candidates)])[0]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of whole texts, after the token that begins a sequence if the tokenizer puts one."""
        tokens = self.tokenizer(list(texts), **PLAIN_TEXT).input_ids if texts else []
        return [[*self._start, *of_text] for of_text in tokens]

    def encode_shared(self, texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Return the token ids that several texts begin with, and those that follow in each, at least one."""
        tokens = self.encode(texts)
        if len(tokens) == 1:
            return [], tokens
        shared = 0
        while all(len(of_text) > shared + 1 and of_text[shared] == tokens[0][shared] for of_text in tokens):
            shared += 1
        return tokens[0][:shared], [of_text[shared:] for of_text in tokens]

    def _cut(self, titles: Sequence[str]) -> list[str]:
        """Cut titles to ``title_tokens``, between two characters; a title's first character stays."""
        limit = self.settings.title_tokens
        # after a mark and a space, as they stand in a prompt
        encoded = self.tokenizer([f"- {title}" for title in titles], **PLAIN_TEXT, return_offsets_mapping=True)
        result = []
        for title, offsets in zip(titles, encoded.offset_mapping, strict=True):
            of_title = [(start - 2, end - 2) for start, end in offsets if end > 1]
            if len(of_title) > limit:
                # a character may take several tokens: one that begins in the last is left out whole
                end = min(of_title[limit - 1][1], of_title[limit][0])
                title = title[: max(end, 1)].rstrip()
            result.append(title)
        return result

    @cached_property
    def target_ids(self) -> list[int]:
        """The token ids that stand for the labels inside a prompt, which training teaches."""
        return self._labels_after(self.template.render(["a title"], ["another"]))

    @cached_property
    def label_ids(self) -> list[int]:
        """The token ids whose logits the verbalizer reads: :attr:`target_ids`, or as published, of letters alone."""
        return self.target_ids if self.settings.label_tokens == "in_prompt" else self._labels_after("")

    @cached_property
    def _start(self) -> list[int]:
        """The token that begins a sequence, if the tokenizer puts one."""
        start = self.tokenizer.bos_token_id
        return [start] if start is not None and self.tokenizer("a").input_ids[0] == start else []

    def _labels_after(self, text: str) -> list[int]:
        before, *followed = self.tokenizer([text, *(text + label for label in LABELS)], **PLAIN_TEXT).input_ids
        found = [tokens[-1] for tokens in followed]
        if any(tokens[:-1] != before for tokens in followed) or len(set(found)) < len(found):
            place = f"at the end of the prompt {self.settings.template!r}" if text else "by itself"
            raise InputError(
                f"The tokenizer of {self.settings.backbone!r} does not give each label A…{LABELS[-1]} one token of its "
                f"own {place}: choose another backbone, template or label_tokens."
            )
        return found
