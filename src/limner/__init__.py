"""Limner: multimodal language models that read and write illustrated pages.

Importing this package loads nothing heavy; import what you need from its modules, for example
``from limner.document.document import Document``. The layers are listed in ARCHITECTURE.md.
"""

__version__ = "0.1.0"
