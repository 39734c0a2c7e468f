import pytest

from llamarec_core.ranking.strategies import PALR, RequestSize
from llamarec_core.ranking.strategies.palr import RECOMMENDED


@pytest.fixture(scope="module")
def strategy(model, prompts):
    return PALR(model, prompts)


def test_the_prompt_reads_as_designed(strategy, prompts):
    assert prompts.tokenizer.decode(strategy.prompt.build([1], [3, 4])) == (
        "[Instruction] A user has purchased these items:\n"
        "- Film 1: The Story (1\n\n"
        "Recommend up to 10 items for the user from these candidates:\n"
        "- Film 3: The Story (1\n"
        "- Film 4: The Story (1\n\n"
        "Recommended, one title a line:\n-"
    )


def test_an_exampleends_with_the_target_which_the_parser_finds(strategy, prompts):
    prompt, answer = strategy.example(0, [1, 2], [3, 14, 7, 28], 1)
    assert prompt == strategy.prompt.build([1, 2], [3, 14, 7, 28])
    assert answer == [*prompts.title_tokens[14], prompts.tokenizer.eos_token_id]
    text = prompts.tokenizer.decode(prompt + answer)
    assert text.startswith(prompts.tokenizer.decode(prompt))
    assert text.endswith(f"\n-{prompts.title(14)}<|im_end|>")


@pytest.mark.parametrize(("n_candidates", "entries"), [(4, 4), (20, RECOMMENDED)])
def test_there_is_room_for_so_many_titles(strategy, n_candidates, entries):
    cost = strategy.predicted_cost(RequestSize(3, n_candidates, history_title_tokens=9, title_tokens=7))
    assert cost["tokens_generated"] == entries * (strategy.prompt.mark_tokens + 7)
