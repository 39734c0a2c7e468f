"""Data: files ──sources, tables──▶ events and titles ──preprocess──▶ :class:`Dataset` (LlamaRec, section 4.1)."""

from llamarec_core.data.dataset import Dataset, find_item
from llamarec_core.data.preprocess import describe
from llamarec_core.data.sources import changed_files, load_dataset

__all__ = ["Dataset", "changed_files", "describe", "find_item", "load_dataset"]
