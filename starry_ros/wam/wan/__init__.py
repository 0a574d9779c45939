"""World-action models of the published size: Wan2.2-TI2V-5B's video stream, VAE and text encoder, and their files."""
