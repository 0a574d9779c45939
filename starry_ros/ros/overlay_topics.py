"""Where the value overlay of a camera is published: one name space a camera, as image tools expect."""


def overlay_topic(camera: str) -> str:
    """Topic of the overlay image."""
    return f"{camera}/value_map/image_raw"


def overlay_info_topic(camera: str) -> str:
    """Topic of the calibration that belongs to it."""
    return f"{camera}/value_map/camera_info"
