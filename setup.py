"""Python packaging. `make setup` pins everything (requirements.lock); colcon builds use CMakeLists.txt instead.

On a machine without ROS 2, such as one that only trains: `pip install '.[sim,train]'`.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup


def share(*folders: str) -> list[tuple[str, list[str]]]:
    """Files of each folder, for share/starry_ros, where paths.share_dir looks for them."""
    found: dict[str, list[str]] = {"share/starry_ros": ["package.xml"]}
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found.setdefault(f"share/starry_ros/{path.parent}", []).append(str(path))
    return list(found.items())


EXTRAS = {
    "sim": ["mujoco>=3.2"],
    "train": ["mujoco>=3.2"],
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
    "openvino": ["openvino"],
    "trt": ["tensorrt"],
    "data": ["mujoco>=3.2", "pyarrow>=16", "av>=12", "mcap", "mcap-ros2-support"],
    "ros": [
        "ros-jazzy-rclpy==7.1.6", "ros-rclpy[fastrtps]==7.1.6", "ros-jazzy-std-msgs", "ros-jazzy-sensor-msgs",
        "ros-jazzy-geometry-msgs", "ros-jazzy-trajectory-msgs", "ros-jazzy-std-srvs", "ros-jazzy-visualization-msgs",
        "ros-jazzy-diagnostic-msgs", "ros-jazzy-rosgraph-msgs", "mcap", "mcap-ros2-support", "av", "mujoco>=3.3",
    ],
    "view": ["rerun-sdk>=0.41"],
    "curves": ["tensorboard"],
    "dev": [
        "pytest>=8,<9", "pytest-xdist", "rosbags", "ruff", "mypy", "types-PyYAML",
        "colcon-core", "colcon-cmake", "colcon-ros",
    ],
}

setup(
    name="starry_ros",
    version="0.1.0",
    description="From cameras and a sentence to safe motion of two arms, by way of a world-action model",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_namespace_packages(include=["starry_ros", "starry_ros.*"]),
    package_data={"": ["*.css", "*.xml", "*.yaml", "*.stl", "*.obj", "*.png"]},
    data_files=share("config", "launch", "models"),
    install_requires=[
        "numpy", "scipy", "PyYAML", "opencv-python-headless", "torch>=2.6", "safetensors", "tokenizers",
        "ruckig; platform_machine == 'x86_64'",  # elsewhere: built from source, or ros-<distro>-ruckig
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["starry = starry_ros.cli:main"]},
)
