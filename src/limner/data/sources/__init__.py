"""Sources: files, tables and pure functions as random access to Documents, whatever place they lie in."""
