"""Forward kinematics of the contract's robot, and the import of MuJoCo that does it."""
