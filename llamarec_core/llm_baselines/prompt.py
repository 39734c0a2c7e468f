"""Prompts of the baselines: the ranker's builder with a wording of its own."""

from llamarec_core.ranking.prompt import LABELS, PromptBuilder, Template, _marks


class TextPrompts(PromptBuilder):
    """A builder of prompts that end without a label."""

    def __init__(self, prompts: PromptBuilder, template: Template, titles=None):
        self.settings, self.tokenizer, self._template = prompts.settings, prompts.tokenizer, template
        self._titles, self.titles = (prompts._titles if titles is None else titles), prompts.titles
        self.title_tokens = prompts.title_tokens if titles is None else self.tokenize(titles)
        self._history_marks = _marks(template.history_mark, template, number=range(1, self.settings.history_length + 1))
        self._candidate_marks = _marks(template.candidate_mark, template, label=LABELS)
        self._history_mark_tokens = self.tokenize(self._history_marks)
        self._candidate_mark_tokens = self.tokenize(self._candidate_marks)
        self._opening = self.begin(template.opening)
        self._bridge, self._closing = self.tokenize([template.bridge, template.closing])
