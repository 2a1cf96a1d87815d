"""The report of one experiment: a single HTML file that needs nothing but itself.

`write_report` is the whole interface; `Baseline` is what it is held against (`deploy.baseline` makes them).
"""

from deploy.report.baselines import Baseline, Gain, Point
from deploy.report.page import render_report, write_report

__all__ = ["Baseline", "Gain", "Point", "render_report", "write_report"]
