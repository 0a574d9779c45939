"""World-action model: imagines the near future, says where the robot is about to act, and decodes actions from that."""
