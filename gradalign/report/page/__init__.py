"""Self-contained HTML pages: one of a run, one of many runs side by side."""

from __future__ import annotations

from gradalign.report.page.run_page import page_path, write_page
from gradalign.report.page.runs_page import write_runs_page

__all__ = ["page_path", "write_page", "write_runs_page"]
