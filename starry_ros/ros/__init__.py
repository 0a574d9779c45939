"""ROS 2 nodes. The only room that imports rclpy: each node subscribes, converts, calls and publishes."""
