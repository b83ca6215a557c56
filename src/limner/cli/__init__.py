"""Layer 6: the command line. One thin file per verb; `main.py` joins them and is the edge where
errors end.
"""
