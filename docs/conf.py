"""The site: ``make docs`` builds it offline into ``docs/_build/html``. No page asks anything of another machine."""

import sys
from pathlib import Path

import spinwarp

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "spinwarp"
author = copyright = "The spinwarp developers"
version = release = spinwarp.__version__
extensions = [
    "myst_nb", "sphinx_design", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "pages", "maths",
]  # fmt: skip
exclude_patterns = ["_build", "README.md", "open_recon"]  # index.md includes README.md

html_theme = "furo"
html_title = "spinwarp"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_search_summary = False  # a summary is fetched, which browsers refuse to pages that are opened as files

nb_execution_mode = "off"  # chapters are shown as they were stored
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
