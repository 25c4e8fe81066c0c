"""The same functions as in `minizone.kernels.cpu`, each fused into one CUDA kernel."""
