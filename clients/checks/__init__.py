"""The check of a site's data before it joins: one file for each kind of check."""

from clients.checks.check import Check, check_site
from clients.checks.finding import Finding

__all__ = ["Check", "Finding", "check_site"]
