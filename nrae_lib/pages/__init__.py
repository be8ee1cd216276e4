"""What notebook pages share: opening and closing a page, tables, boxes, plots, and the cards of the page of methods."""

from nrae_lib.pages.boxes import (
    banner,
    banner_html,
    download,
    download_html,
    papermill_command,
    papermill_command_text,
    provenance,
    provenance_html,
    verdicts,
    verdicts_html,
)
from nrae_lib.pages.methods import (
    documentation,
    documented,
    error_formula,
    formula,
    loss_formula,
    marked_table,
    marked_table_html,
    method_cards,
    method_cards_html,
    step_time_rows,
    weight_convention,
)
from nrae_lib.pages.parameters import check_parameters, choose_methods
from nrae_lib.pages.study import close_study, open_study, show_source, spot_check_text, stored_verdicts
from nrae_lib.pages.tables import (
    comparison_table,
    comparison_table_html,
    table_frame,
    text_table,
    text_table_html,
)

__all__ = [
    "banner", "banner_html", "check_parameters", "choose_methods", "close_study", "comparison_table",
    "comparison_table_html", "documentation", "documented", "download", "download_html", "error_formula",
    "formula", "loss_formula", "marked_table", "marked_table_html", "method_cards", "method_cards_html", "open_study",
    "papermill_command", "papermill_command_text", "provenance", "provenance_html", "show_source", "spot_check_text",
    "step_time_rows", "stored_verdicts", "table_frame", "text_table", "text_table_html", "verdicts",
    "verdicts_html", "weight_convention",
]  # fmt: skip
