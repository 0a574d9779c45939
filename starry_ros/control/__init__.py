"""Control: plans in, set-points out. Every motion is a curve that ends at rest inside all limits.

Reading order: `trajectory` (curves), `limits`, `stop`, `splice` (a plan becomes a curve), `schedule` (which plans are
accepted), `safety` (modes), `executor` (the tick), `arms` (what a robot offers).
"""
