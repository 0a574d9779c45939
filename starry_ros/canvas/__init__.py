"""Which frames belong together, where they lie on the canvas, and the pixels."""
