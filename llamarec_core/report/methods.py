"""The methods of the study: their names in files, on the page and in the paper, in the order of every table."""

from collections.abc import Iterable

METHOD_NAMES = {
    "random-order": "Random order",
    "popularity-order": "Popularity order",
    "title-overlap": "Title overlap",
    "title-overlap-with-retriever": "Title overlap + LRURec",
    "item_knn": "ItemKNN",
    "narm": "NARM",
    "bert4rec": "BERT4Rec",
    "sasrec": "SASRec",
    "lrurec": "LRURec",
    "llamarec": "LlamaRec",
    "llamarec-with-retriever": "LlamaRec + LRURec",
}
"""Name in files → name on the page, the paper's where it measures the method too. One that is not listed is shown,
last, by its name in files."""

STRATEGY_NAMES = {
    "verbalizer": "LlamaRec (verbalizer)",
    "causal_lm": "Llama CausalLM",
    "palr": "PALR",
    "gpt4rec": "GPT4Rec",
    "tallrec": "TALLRec",
    "p5": "P5",
    "tallrec_apart": "TALLRec, prefix not shared",
    "recmind": "RecMind",
    "pod": "POD",
    "retriever": "Retriever's order",
}
"""The same of the ways in which a language model is made to rank, and of those that the paper quotes beside them."""

RETRIEVER = "retriever"
"""Names the retriever's own order of the candidates in the table of strategies."""

_SUBSETS = {"all": "all users", "retrieved": "target retrieved"}


def in_order(methods: Iterable[str]) -> list[str]:
    """Return the distinct methods in the order of :data:`METHOD_NAMES`, others after them as they come."""
    known = {method: place for place, method in enumerate(METHOD_NAMES)}
    return sorted(dict.fromkeys(methods), key=lambda method: known.get(method, len(known)))


def display_name(method: str) -> str:
    """Return the name of a method, a strategy or a set of users on the page."""
    return (METHOD_NAMES | STRATEGY_NAMES | _SUBSETS).get(method, method)
