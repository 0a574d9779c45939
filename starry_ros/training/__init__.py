"""From demonstrations to a checkpoint: data, losses, training, evaluation."""
