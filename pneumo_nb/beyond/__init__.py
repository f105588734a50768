"""Beyond the paper: what stands behind notebooks 08 to 11, one new radiograph, and checklists for authors.

In: runs (`train.runs`) and the dataset that they were trained on. Out: DataFrames and numbers; only `reader` writes,
a page for one radiograph.

For others: `texture` and `staging` (the paper's rivals, and stages), `implants` (what a pixel costs), `decisions` (from
a probability to a decision), `reader` (a new radiograph through the road of a run's dataset), `checklist`.
"""
