"""Results as figures, tables and files. Matplotlib is imported when a figure is made, its global state left alone."""

from probgen.plots.comparison_figure import plot_comparison

__all__ = ["plot_comparison"]
