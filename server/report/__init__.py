"""The report of a run: one HTML file that needs nothing but a browser.

See also:
    ``run_folder``: what is read; ``sections``: what is shown, one file each; ``first_screen``:
    what is shown first; ``page``: how it is put together.
"""

from server.report.page import write_report

__all__ = ["write_report"]
