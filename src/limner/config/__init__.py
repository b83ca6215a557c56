"""How a run is described: recorded calls, overrides, show and diff, JSON, config files.

`call.py` records calls and builds them, `overrides.py` changes them from the command line,
`show.py` prints and compares them, `serialize.py` stores them, `load.py` reads the files in
`configs/`.
"""
