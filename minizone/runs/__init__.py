"""The parts that all experiments share: settings, the training loop, the run folder, plots and reports."""
