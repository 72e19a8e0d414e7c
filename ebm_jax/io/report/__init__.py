"""HTML pages of what workdirs hold; each is one file that needs no network and no other file.

`page(workdir)` is that of one run, `comparison(workdirs)` of several beside each other. Without
JavaScript everything can be seen; with it curves can be hidden and read off.
"""

from ebm_jax.io.report.comparison import comparison
from ebm_jax.io.report.elements import table
from ebm_jax.io.report.run_page import page

__all__ = ["comparison", "page", "table"]
