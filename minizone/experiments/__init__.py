"""One file per experiment: its settings with their presets, its model, what it reports."""
