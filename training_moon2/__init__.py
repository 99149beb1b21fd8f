"""Training: triplets in motion, the trainer, its checkpoints and recipes. `train_moon2.py` is the command."""
