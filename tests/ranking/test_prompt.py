import pytest
from tokenizers import Tokenizer, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llamarec_core.files import InputError
from llamarec_core.ranking import LABELS, TEMPLATES, PromptBuilder
from llamarec_core.settings import RankerSettings

TITLES = [
    "",
    "Toy Story (1995)",
    "...And Justice for All (1979)",
    "Shall We Dance? (1996)",
    "Sgt. Bilko's 2nd  Chance\n(1996)",
    "Amélie & <Co.>; {brand} 3.5 oz!",
    "Z",
    'ワンピース – 5 Pack, 100% "new"',
] + [f"Number {number} {'very ' * number}long title" for number in range(30)]

UNKNOWN, BEGINNING = {"unk_token": "<unk>"}, {"bos_token": "<s>"}


@pytest.fixture(scope="module")
def sentencepiece():
    """A tokenizer that treats spaces as Llama-2's does: '▁' before words, a token to begin with, bytes for the rest."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, **UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = " ".join([*TITLES, *LABELS]).split()
    tokenizer.train_from_iterator(words * 2, trainers.BpeTrainer(special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **UNKNOWN, **BEGINNING)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("history", [[], [1], [1, 2, 3, 4, 5, 6, 7], list(range(5, 30))])
def test_a_prompt_of_cached_titles_has_the_tokens_of_the_whole_text(tokenizer, template, history):
    builder = PromptBuilder(tokenizer, TITLES, RankerSettings(template=template, title_tokens=100))
    candidates = [7, 6, 5, 4, 3, 2, 1, *range(10, 23)]
    assert builder.build(history, candidates) == tokenizer(builder.text(history, candidates)).input_ids


def test_the_ranking_template_reads_as_designed(tokenizer):
    builder = PromptBuilder(tokenizer, TITLES, RankerSettings())
    assert builder.text([1, 2], [3, 6]) == (
        "[Instruction] Here is the purchase history of a user:\n"
        "- Toy Story (1995)\n"
        "- ...And Justice for All (1979)\n\n"
        "Please rank the following candidate items based on the user's preferences:\n"
        "A. Shall We Dance? (1996)\n"
        "B. Z\n\n"
        "The most suitable item to recommend next is:\n"
    )


def test_the_alpaca_template_reads_as_published(tokenizer):
    builder = PromptBuilder(tokenizer, TITLES, RankerSettings(template="alpaca"))
    assert builder.text([1, 6], [3, 6]) == (
        "### Instruction:\nGiven user history in chronological order, recommend an item from the candidate pool with "
        "its index letter.\n\n### Input:\n"
        "User history: (1) Toy Story (1995) \n (2) Z ; \n "
        "Candidate pool: (A) Shall We Dance? (1996) \n (B) Z\n\n### Response:\n"
    )


def test_the_candidates_first_template_reads_as_designed(tokenizer):
    builder = PromptBuilder(tokenizer, TITLES, RankerSettings(template="candidates_first"))
    assert builder.text([1, 2], [3, 6]) == (
        "[Instruction] Here are the candidate items:\n"
        "A. Shall We Dance? (1996)\n"
        "B. Z\n\n"
        "For each purchase of a user, name the candidate most suitable to recommend next:\n"
        "- Toy Story (1995)\n"
        "- ...And Justice for All (1979)\n"
    )


def test_a_shared_prompt_holds_the_prompts_of_every_beginning_of_its_histories(tokenizer):
    builder = PromptBuilder(tokenizer, TITLES, RankerSettings(template="candidates_first", history_length=3))
    histories, candidates = [[1, 2, 3, 4], [6, 7]], [5, 8, 9]
    shared = builder.build_shared(histories, candidates)
    assert [len(ends) for ends in shared.ends] == [3, 2]  # the last three titles, and both
    for history, tokens, ends in zip([[2, 3, 4], [6, 7]], shared.histories, shared.ends, strict=True):
        for count, end in enumerate(ends, 1):
            assert shared.beginning + tokens[:end] == builder.build(history[:count], candidates)


def test_a_template_with_the_history_first_shares_no_list(tokenizer):
    builder = PromptBuilder(tokenizer, TITLES, RankerSettings())
    with pytest.raises(InputError, match="'ranking' puts the history first"):
        builder.build_shared([[1], [2]], [3, 4])


def test_only_the_last_titles_of_a_history_are_listed(tokenizer):
    builder = PromptBuilder(tokenizer, TITLES, RankerSettings(history_length=2))
    assert builder.build([5, 4, 1, 6], [2, 3]) == builder.build([1, 6], [2, 3])


def test_long_titles_are_cut_to_so_many_tokens(tokenizer):
    long, short = len(TITLES) - 1, 6
    cut = PromptBuilder(tokenizer, TITLES, RankerSettings(title_tokens=4))
    assert "\n- Number 29\n\n" in cut.text([long], [short])  # digits are one token each: ' Number', ' ', '2', '9'
    one_more = PromptBuilder(tokenizer, TITLES, RankerSettings(title_tokens=5))
    assert len(one_more.build([long], [short])) == len(cut.build([long], [short])) + 1


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("label_tokens", ["in_prompt", "as_published"])
def test_smollm2_labels_are_the_letters_tokens(tokenizer, template, label_tokens):
    builder = PromptBuilder(tokenizer, TITLES, RankerSettings(template=template, label_tokens=label_tokens))
    assert builder.label_ids == builder.target_ids == list(range(49, 69))
    assert tokenizer.convert_ids_to_tokens(builder.label_ids) == list(LABELS)


@pytest.mark.parametrize("template", TEMPLATES)
def test_sentencepiece_prompts_have_the_tokens_of_the_whole_text_too(sentencepiece, template):
    builder = PromptBuilder(sentencepiece, TITLES, RankerSettings(template=template, title_tokens=100))
    tokens = builder.build([1, 2, 6], [3, 5, 7])
    assert tokens[0] == sentencepiece.bos_token_id
    assert tokens == sentencepiece(builder.text([1, 2, 6], [3, 5, 7])).input_ids


def test_sentencepiece_labels_differ_in_the_prompt_and_alone(sentencepiece):
    in_prompt = PromptBuilder(sentencepiece, TITLES, RankerSettings())
    published = PromptBuilder(sentencepiece, TITLES, RankerSettings(label_tokens="as_published"))
    assert sentencepiece.convert_ids_to_tokens(in_prompt.label_ids) == list(LABELS)
    assert sentencepiece.convert_ids_to_tokens(published.label_ids) == [f"▁{label}" for label in LABELS]
    assert published.target_ids == in_prompt.label_ids  # training teaches the same either way


def test_more_candidates_than_labels_are_refused(tokenizer):
    builder = PromptBuilder(tokenizer, TITLES, RankerSettings())
    with pytest.raises(InputError, match="21 candidates are more than the 20 labels A…T"):
        builder.build([1], range(1, 22))


def test_an_unknown_template_is_refused_with_the_known_ones(tokenizer):
    settings = RankerSettings().model_copy(update={"template": "haiku"})
    with pytest.raises(InputError, match="Unknown template 'haiku': choose from ranking, alpaca"):
        PromptBuilder(tokenizer, TITLES, settings)


def test_a_tokenizer_without_a_token_for_each_label_is_refused():
    letters = Tokenizer(models.WordLevel({"<unk>": 0}, **UNKNOWN))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, **UNKNOWN)
    with pytest.raises(InputError, match="each label A…T one token"):
        PromptBuilder(tokenizer, TITLES, RankerSettings())
