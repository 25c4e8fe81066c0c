"""What every run has, whatever its experiment: settings, the training loop, the run folder, plots and reports."""
