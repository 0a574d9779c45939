"""Value maps from the canvas back to each camera's own image, in colour. Nothing depends on this room."""
