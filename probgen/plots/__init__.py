"""Results as figures, tables and files.

Every figure is a function that returns a :class:`Drawing`: the figure and the numbers behind it. Functions are imported
on first use (PEP 562), matplotlib when a figure is made, and its global state is left alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probgen.plots.comparison_figure import plot_comparison as plot_comparison
    from probgen.plots.drawing import Drawing as Drawing
    from probgen.plots.evidence_figure import evidence as evidence
    from probgen.plots.gradient_figure import gradient_report as gradient_report
    from probgen.plots.interpolation_figure import interpolation as interpolation
    from probgen.plots.kl_figure import kl_per_latent as kl_per_latent
    from probgen.plots.latent_figure import latents as latents
    from probgen.plots.reconstruction_figure import reconstructions as reconstructions
    from probgen.plots.sample_figure import samples as samples
    from probgen.plots.training_figure import training as training
    from probgen.plots.traversal_figure import traversal as traversal

_LAZY = {
    "Drawing": "drawing",
    "evidence": "evidence_figure",
    "gradient_report": "gradient_figure",
    "interpolation": "interpolation_figure",
    "kl_per_latent": "kl_figure",
    "latents": "latent_figure",
    "plot_comparison": "comparison_figure",
    "reconstructions": "reconstruction_figure",
    "samples": "sample_figure",
    "training": "training_figure",
    "traversal": "traversal_figure",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'probgen.plots' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"probgen.plots.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
