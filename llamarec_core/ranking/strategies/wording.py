"""Prompts of the strategies: a list of the history and, where the strategy reads them, of the candidates."""

from collections.abc import Sequence
from itertools import chain

from llamarec_core.ranking.prompt import PromptBuilder, Template


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

    def beginning_length(self, *, history_length: int, title_tokens: float) -> float:
        """Return the number of tokens of :meth:`beginning`: opening + H · (mark + T) + bridge."""
        return len(self._opening) + history_length * (len(self._history_mark) + title_tokens) + len(self._bridge)

    def ending_length(self, *, n_candidates: int, title_tokens: float) -> float:
        """Return the number of tokens of :meth:`ending`: K · (mark + T) + closing."""
        return n_candidates * (self.mark_tokens + title_tokens) + len(self._closing)
