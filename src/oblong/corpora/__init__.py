"""Text in: documents from a file, a folder, a Hub dataset, or the texts that ship with oblong."""

from oblong.corpora.bundled import BUNDLED, BUNDLED_PREFIX
from oblong.corpora.documents import Documents, read_documents

__all__ = ["BUNDLED", "BUNDLED_PREFIX", "Documents", "read_documents"]
