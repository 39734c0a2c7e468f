"""llamarec: a reproducible study of LlamaRec (Yue et al., 2023, arXiv 2311.02089).

The packages stand in the order in which data meets them: ``data`` → ``retrieval`` →
``ranking`` → ``evaluation`` → ``report``. No package imports from a later one.
"""

import logging

__version__ = "0.1.0"

# bitsandbytes recommends an optional package in a warning of several lines when it is first imported, by whomever
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "pip install kernels" not in record.msg)
