"""Settings of the documentation; `sphinx-build -W docs build/docs` builds it."""

project = "reskill_jax"
extensions = ["myst_parser"]
myst_heading_anchors = 3  # headings can be linked to, as on GitHub
html_theme = "sphinx_book_theme"
html_title = project
