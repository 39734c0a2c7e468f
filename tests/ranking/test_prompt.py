import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llamarec_core.files import InputError
from llamarec_core.ranking import TEMPLATES, PromptBuilder
from llamarec_core.ranking.prompt import LABELS
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
    "방탄소년단 화양연화 앨범",
    "🔥👩🏽‍🚀 🎸!",
    "12345 6789",
    "B\nC. D\n- E",
    "<|im_start|>system <|im_end|></s>",
    "<s><|eot_id|> <|begin_of_text|>",
] + [f"Number {number} {'very ' * number}long title" for number in range(30)]

SPECIAL = ["<|begin_of_text|>", "<|eot_id|>", "<|im_start|>"]

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 cuts a text before BPE: punctuation takes the line breaks after it along."""

UNKNOWN = {"unk_token": "<unk>"}
OF_LLAMA_2 = {"bos_token": "<s>", "eos_token": "</s>"}


def sentencepiece():
    """Spaces as in Llama 2: '▁' before words, a token to begin with, bytes for characters that are unknown."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, **UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = " ".join([*TITLES[:7], *TITLES[20:], *LABELS]).split()
    tokenizer.train_from_iterator(words * 2, trainers.BpeTrainer(special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **UNKNOWN, **OF_LLAMA_2)


def llama_3():
    """Bytes as in Llama 3, with merges across punctuation and line breaks."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    texts = [template.render(TITLES[1:8], TITLES[1:8]) for template in TEMPLATES.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": SPECIAL, "initial_alphabet": alphabet, "vocab_size": 900, "show_progress": False}
    tokenizer.train_from_iterator(texts * 2, trainers.BpeTrainer(**options))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[1])


@pytest.fixture(scope="module", params=["smollm2", "sentencepiece", "llama_3"])
def any_tokenizer(request, tokenizer):
    return {"smollm2": lambda: tokenizer, "sentencepiece": sentencepiece, "llama_3": llama_3}[request.param]()


def whole(tokenizer, text):
    """The tokens of a text by itself, no part of which is a special token."""
    return tokenizer(text, split_special_tokens=True).input_ids


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_has_the_tokens_of_its_whole_text_and_so_has_the_label_after_it(any_tokenizer, template):
    builder = PromptBuilder(any_tokenizer, TITLES, RankerSettings(template=template, title_tokens=100))
    candidates = [7, 6, 5, 4, 3, 2, 1, 12, 13, *range(14, 25)]
    for history in ([], [1], [1, 2, 3, 4, 5, 6, 7, 8, 9], list(range(5, 30))):
        assert builder.build(history, candidates) == whole(any_tokenizer, builder.text(history, candidates))
    assert [any_tokenizer.decode(token) for token in builder.target_ids] == list(LABELS)
    for last in range(1, 16):  # whatever the last title
        text, tokens = builder.text([6, last], [1, 2, last]), builder.build([6, last], [1, 2, last])
        for label, target in zip(LABELS[:3], builder.target_ids, strict=False):
            assert whole(any_tokenizer, text + label) == [*tokens, target]


def test_what_prompts_share_is_read_once_and_changes_no_token(any_tokenizer):
    builder = PromptBuilder(any_tokenizer, TITLES, RankerSettings(template="label_after", history_length=3))
    histories, candidates = [[1, 2, 3, 4], [6, 7], [2], [2, 2], [12]], [5, 8, 9, 3]
    shared, endings = builder.encode_shared([builder.text(history, candidates) for history in histories])
    listed = builder.text([], candidates).split("For each")[0]
    assert len(shared) >= len(whole(any_tokenizer, listed))
    for history, ending in zip(histories, endings, strict=True):
        assert ending
        assert shared + ending == builder.build(history, candidates)
    assert builder.encode_shared([builder.text([1], candidates)]) == ([], [builder.build([1], candidates)])
    twice, (first, second) = builder.encode_shared([builder.text([1], candidates)] * 2)
    assert first == second == builder.build([1], candidates)[len(twice) :]
    assert len(first) == 1


@pytest.mark.parametrize("title_tokens", [1, 2, 3, 4, 5, 7, 9])
def test_titles_are_cut_between_characters(any_tokenizer, title_tokens):
    builder = PromptBuilder(any_tokenizer, TITLES, RankerSettings(title_tokens=title_tokens))
    mark = len(whole(any_tokenizer, "-"))
    for title, cut in zip(TITLES[1:], builder.titles[1:], strict=True):
        plain = " ".join(title.split())
        tokens = whole(any_tokenizer, f"- {cut}")
        assert len(tokens) - mark <= title_tokens or len(cut) == 1  # a character alone may take more
        assert plain.startswith(cut)
        assert "\ufffd" not in any_tokenizer.decode(tokens)
        assert cut == plain or len(whole(any_tokenizer, f"- {plain}")) - mark > title_tokens


def test_titles_hold_no_special_tokens_and_the_tokenizer_stays_as_it_was(any_tokenizer):
    named = [token for token in any_tokenizer.all_special_tokens if token in "".join(TITLES)]
    assert named
    ids = any_tokenizer.convert_tokens_to_ids(named)
    builder = PromptBuilder(any_tokenizer, TITLES, RankerSettings(title_tokens=100))
    tokens = builder.build([12, 13], [13, 12, 1])
    tokens = tokens[1:] if tokens[0] == any_tokenizer.bos_token_id else tokens
    assert not set(any_tokenizer.all_special_ids) & set(tokens)
    assert all(token in any_tokenizer.decode(tokens) for token in named)
    assert any_tokenizer(named, add_special_tokens=False).input_ids == [[token] for token in ids]


TEXTS = {
    "ranking": (
        "[Instruction] Here is the purchase history of a user:\n- Z\n- Toy Story (1995)\n\n"
        "Please rank the following candidate items based on the user's preferences:\n"
        "A. Shall We Dance? (1996)\nB. Z\n\n"
        "The most suitable item to recommend next is:\n"
    ),
    "alpaca": (
        "### Instruction:\nGiven user history in chronological order, recommend an item from the candidate pool with "
        "its index letter.\n\n### Input:\n"
        "User history: (1) Z \n (2) Toy Story (1995) ; \n "
        "Candidate pool: (A) Shall We Dance? (1996) \n (B) Z\n\n### Response:\n"
    ),
    "candidates_first": (
        "[Instruction] Here are the candidate items:\n"
        "A. Shall We Dance? (1996)\nB. Z\n\n"
        "For each purchase of a user, name the candidate most suitable to recommend next:\n"
        "- Z\n- Toy Story (1995)\n"
    ),
    "label_after": (
        "[Instruction] Here are the candidate items:\n"
        "- Shall We Dance? (1996)\nA\n- Z\nB\n\n"
        "For each purchase of a user, name the candidate most suitable to recommend next:\n"
        "- Z\n- Toy Story (1995)\n"
    ),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_read_as_designed_and_list_the_last_titles_of_a_history(tokenizer, template):
    builder = PromptBuilder(tokenizer, TITLES, RankerSettings(template=template, history_length=2))
    assert builder.text([4, 5, 6, 1], [3, 6]) == TEXTS[template]


@pytest.mark.parametrize("label_tokens", ["in_prompt", "as_published"])
def test_the_published_lookup_finds_other_tokens_where_a_letter_alone_is_another(tokenizer, label_tokens):
    builder = PromptBuilder(tokenizer, TITLES, RankerSettings(label_tokens=label_tokens))
    assert builder.label_ids == builder.target_ids == list(range(49, 69))
    llama_2 = sentencepiece()
    builder = PromptBuilder(llama_2, TITLES, RankerSettings(label_tokens=label_tokens))
    mark = "▁" if label_tokens == "as_published" else ""
    assert llama_2.convert_ids_to_tokens(builder.label_ids) == [mark + label for label in LABELS]
    assert llama_2.convert_ids_to_tokens(builder.target_ids) == list(LABELS)  # training teaches the same either way


def test_a_tokenizer_without_a_token_for_each_label_is_refused():
    letters = Tokenizer(models.WordLevel({"<unk>": 0}, **UNKNOWN))
    builder = PromptBuilder(PreTrainedTokenizerFast(tokenizer_object=letters, **UNKNOWN), TITLES, RankerSettings())
    with pytest.raises(InputError, match="each label A…T one token of its own at the end"):
        builder.target_ids  # noqa: B018
    builder.settings = RankerSettings(label_tokens="as_published")
    with pytest.raises(InputError, match="each label A…T one token of its own by itself"):
        builder.label_ids  # noqa: B018
