"""Recordings of sessions: written, repaired, read, replayed, reported and shown. No rclpy: any machine can do it."""
