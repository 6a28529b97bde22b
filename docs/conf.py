"""Settings of Sphinx. The sources are put together by ``assemble.py``; see ``make docs``."""

import hashlib
import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def digest_of_sources() -> str:
    """Changes whenever the package does, so that no notebook shows what older code has drawn."""
    files = sorted(file for folder in ("probgen", "models", "guides") for file in (ROOT / folder).rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


project = "probgen"
author = "The probgen authors"
copyright = author
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"probgen {version}"
html_copy_source = False

# --- text --------------------------------------------------------------------------------------------------------

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

# --- docstrings --------------------------------------------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source"]
add_module_names = False
python_maximum_signature_line_length = 100
# A reference to a name of ours must lead somewhere; others have pages elsewhere, which are not fetched.
nitpicky = True
INTERNAL = (
    r"probgen\.(core\.ops|programs\.(terms\.Layout|sampling)|data\.batches|svi\.fetch|testing\.reference|"
    r"numpyro\.(terms|surrogate|sampling)|models\.numpyro\._likelihoods).*"
)
nitpick_ignore_regex = [(r"py:.*", r"(?!probgen\b).*"), (r"py:.*", INTERNAL)]

# --- notebooks ---------------------------------------------------------------------------------------------------

# They are committed without outputs. The first build runs them; later ones show what it drew, until the package
# changes.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "docs" / "_build" / "notebooks" / digest_of_sources())
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove-warn"
os.environ |= {"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # the networks are too small for two
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # a progress bar of Jupyter's, which needs ipywidgets
