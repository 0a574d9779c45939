"""What the visualiser publishes. One name space a camera, as image tools expect: pictures share its `camera_info`."""

PLAN_MARKERS = "plan/markers"
IMAGINED_BESIDE_REAL = "imagined/image_raw"
EVENT_NAMES = ("next", "after")


def overlay_topic(camera: str) -> str:
    """Topic of the overlay image."""
    return f"{camera}/value_map/image_raw"


def overlay_info_topic(camera: str) -> str:
    """Topic of the calibration that belongs to it."""
    return f"{camera}/value_map/camera_info"


def raw_topic(camera: str, event: int) -> str:
    """Topic of the raw values of one contact event on the camera's pixels, 32FC1."""
    return f"{camera}/value_map/{EVENT_NAMES[event]}"
