"""What a device does with this project's work: ``python -m scripts.gpu_test`` (make gpu-test)."""
