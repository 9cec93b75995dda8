"""Other systems, each in a virtual environment of its own, measured as ours is: `python -m bench peers`.

`apps/` and `drive` run in those environments: they import nothing of ours but `bench.apps.stamp`.
"""
