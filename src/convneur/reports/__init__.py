"""Pages and pictures that people open in a browser: templates and figures, and nothing of any task."""

from convneur.reports.page import Section, write_report

__all__ = ["Section", "write_report"]
