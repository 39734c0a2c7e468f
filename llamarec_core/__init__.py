"""llamarec: a reproducible study of LlamaRec (Yue et al., 2023, arXiv 2311.02089).

The packages stand in the order in which data meets them: ``data`` → ``retrieval`` →
``ranking`` → ``evaluation`` → ``report``. No package imports from a later one.
"""

__version__ = "0.1.0"
