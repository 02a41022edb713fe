"""vmckpt checkpoints the memory of virtual machines."""
