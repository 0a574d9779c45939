"""starry_ros: from cameras and a sentence to safe motion of two arms, by way of a world-action model."""

__path__ = __import__("pkgutil").extend_path(__path__, __name__)
