"""What notebook pages share: opening and closing a page, tables, boxes, plots, and the cards of the page of methods."""

# ruff: noqa: F401, I001 (imported for whoever imports from here, and for the book)
from nrae_lib.pages.boxes import banner, download, papermill_command, provenance, verdicts
from nrae_lib.pages.methods import (
    documentation, documented, error_formula, formula, loss_formula, marked_table, method_cards, step_time_rows,
    weight_convention,
)  # fmt: skip
from nrae_lib.pages.parameters import check_parameters, choose_methods
from nrae_lib.pages.study import (
    all_verdicts, close_study, open_study, scale_of, show_source, spot_check_text, stored_verdicts,
)  # fmt: skip
from nrae_lib.pages.tables import comparison_table, table_frame, text_table
