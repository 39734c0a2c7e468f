"""What the book shows. Each table and each figure is made by one function, from ranks, curves and data sets.

``tables`` and ``strategies`` compute the tables, ``forms`` says how each looks, and ``show`` draws it for the page and
for LaTeX. ``figures`` and ``curves`` draw the figures.
"""

from llamarec_core.report.curves import (
    candidate_probabilities,
    grid_panels,
    index_curves,
    inference_times,
    learning_curve,
    line_panels,
    noise_sizes,
    quality_against_latency,
    rank_histogram,
    sequence_lengths_and_popularity,
    training_curve,
    validation_curves,
)
from llamarec_core.report.figures import ablation_forest, as_html, forest, gains_forest, save_figure, set_theme
from llamarec_core.report.forms import METHOD_NAMES, STRATEGY_NAMES
from llamarec_core.report.show import (
    publish_table,
    show_record,
    show_runs,
    show_table,
    show_versions,
    write_table,
    write_users,
)
from llamarec_core.report.strategies import training_table
from llamarec_core.report.tables import Tables, ablation_table, reached_table, statistics_table
