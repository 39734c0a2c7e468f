"""Data: raw files → :class:`Dataset`, the first stage of the study (LlamaRec, section 4.1).

source files ──sources, tables──▶ events and titles ──preprocess──▶ Dataset

>>> from llamarec_core.data import load_dataset
>>> dataset = load_dataset("ml-100k-1998")
>>> dataset.n_users, dataset.n_items
(943, 1349)
"""

from llamarec_core.data.dataset import Dataset
from llamarec_core.data.preprocess import describe
from llamarec_core.data.sources import changed_files, load_dataset
from llamarec_core.data.titles import find_item

__all__ = ["Dataset", "changed_files", "describe", "find_item", "load_dataset"]
