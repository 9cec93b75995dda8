"""The figures: each a ratio within one run, measured with real processes on real servers."""
