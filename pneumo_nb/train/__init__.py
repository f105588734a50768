"""A prepared dataset -> trained runs, each under a key that says all that it depends on (Sections 2.2 and 3.1).

In: a prepared dataset (`dataset.load`) and `settings.TrainSettings`. Out: `outputs/runs/<key>/` with record.json,
history.csv, predictions.csv and weights.safetensors.

For others: `runs` (load a run or train it, read its record), `sweep` (many at once), `dataset`, `models`, `losses`.
"""
