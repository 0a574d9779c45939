"""Control: plans in, set-points out. Every motion is a curve that ends at rest inside all limits.

Reading order: `trajectory` (curves), `limits`, `stop`, `splice` (a plan becomes a curve), `space` (where the arms may
be), `schedule` (which plans are accepted), `intake` (how they are joined, a slice a tick), `safety` (modes), `executor`
(the tick).
"""
