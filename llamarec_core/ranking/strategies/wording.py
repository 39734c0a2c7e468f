"""Prompts of the strategies: a list of the history and, where the strategy reads them, of the candidates."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from llamarec_core.ranking.prompt import PromptBuilder, Template


@dataclass(frozen=True)
class RequestSize:
    """What the cost of a request depends on."""

    history_length: int
    """Titles of the history that are listed, H."""
    n_candidates: int
    """K."""
    history_title_tokens: float
    """Mean number of tokens of the history's titles, T."""
    title_tokens: float
    """Mean number of tokens of the candidates' titles, T."""


class ListPrompt:
    """Builds prompts of one wording: opening, history, bridge, candidates, closing.

    Attributes:
        mark_tokens: number of tokens before a candidate's title.

    Args:
        prompts: of the data set and the backbone; its settings cut histories and titles as for the verbalizer.
        template: the wording; its marks are the same for all entries.
        entries: token ids that stand for each item; by default its title's.
    """

    def __init__(self, prompts: PromptBuilder, template: Template, entries: Sequence[list[int]] | None = None):
        self._entries = prompts.title_tokens if entries is None else entries
        self._history_length = prompts.settings.history_length
        self._opening = prompts.begin(template.opening)
        pieces = (template.history_mark, template.bridge, template.candidate_mark, template.closing)
        self._history_mark, self._bridge, self._candidate_mark, self._closing = prompts.tokenize(pieces)
        self.mark_tokens = len(self._candidate_mark)

    def build(self, history: Sequence[int], candidates: Sequence[int] = ()) -> list[int]:
        """Return a prompt's token ids.

        Args:
            history: item ids in the order of time; the last ``history_length`` are listed.
            candidates: item ids in the order in which they are listed.
        """
        return self.beginning(history) + self.ending(candidates)

    def beginning(self, history: Sequence[int]) -> list[int]:
        """Return the part of a prompt that does not depend on the candidates."""
        past = (self._history_mark + self._entries[item] for item in history[-self._history_length :])
        return [*self._opening, *chain.from_iterable(past), *self._bridge]

    def ending(self, candidates: Sequence[int]) -> list[int]:
        """Return the rest."""
        listed = (self._candidate_mark + self._entries[item] for item in candidates)
        return [*chain.from_iterable(listed), *self._closing]

    def beginning_length(self, size: RequestSize) -> float:
        """Return the number of tokens of :meth:`beginning`: opening + H · (mark + T) + bridge."""
        past = size.history_length * (len(self._history_mark) + size.history_title_tokens)
        return len(self._opening) + past + len(self._bridge)

    def ending_length(self, size: RequestSize) -> float:
        """Return the number of tokens of :meth:`ending`: K · (mark + T) + closing."""
        return size.n_candidates * (self.mark_tokens + size.title_tokens) + len(self._closing)
