"""`starry record`: records the graph that is running or a simulated session, or repairs a recording that was cut."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from starry_ros.paths import model_dir, robot_file
from starry_ros.ranges import COUNT, NOT_NEGATIVE, POSITIVE, WHOLE
from starry_ros.robot_spec import load_robot_spec
from starry_ros.ros.start import prepare
from starry_ros.wam.choices import RUNTIMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry record`."""
    parser.add_argument("--output", default="recordings", metavar="DIR", help="folder of the files (recordings)")
    parser.add_argument("--robot", default="bimanual_sim", help="robot contract of the graph (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="model that the graph runs (default: %(default)s)")
    parser.add_argument("--exclude", metavar="REGEX", help="topics to leave out; '' records what is painted, too")
    parser.add_argument("--ring", type=NOT_NEGATIVE, default=0.0, metavar="S",
                        help="keep only the last S seconds in memory, and write them when a fault comes")
    parser.add_argument("--ring-mib", type=COUNT, default=512, metavar="MIB",
                        help="memory for them; raw pictures of three cameras need 10 to 100 MiB a second (512)")
    parser.add_argument("--after", type=NOT_NEGATIVE, default=3.0, metavar="S",
                        help="seconds to write after a fault (3)")
    parser.add_argument("--recover", type=Path, nargs="+", metavar="FILE",
                        help="do not record: write FILE.recovered.mcap with everything readable in FILE")
    parser.add_argument("--simulate", type=Path, metavar="FILE",
                        help="do not record the graph: play episodes in simulated time, at any speed of this machine")
    parser.add_argument("--episodes", type=COUNT, default=1, metavar="N", help="episodes with --simulate (1)")
    parser.add_argument("--time-limit", type=POSITIVE, default=12.0, metavar="S", help="longest episode (12)")
    parser.add_argument("--seed", type=WHOLE, default=0, help="first scene with --simulate (0)")
    parser.add_argument("--swap-after", type=NOT_NEGATIVE, default=0.0, metavar="S",
                        help="with --simulate: change the sentence so long after the start; 0 never")
    parser.add_argument("--runtime", default="auto", choices=RUNTIMES, help="runtime with --simulate (auto)")


def record_command(args: argparse.Namespace) -> int:
    """Record until Ctrl-C, simulate, or recover files."""
    if args.recover:
        return _recover(args.recover)
    if args.simulate:
        return _simulate(args)
    prepare("recorder")
    from starry_ros.ros.recorder_node import RecorderNode
    from starry_ros.ros.run import run

    values = {"output": args.output, "robot": args.robot, "model": args.model, "ring_s": args.ring,
              "ring_mib": args.ring_mib, "after_s": args.after}
    if args.exclude is not None:
        values["exclude"] = args.exclude
    words = [word for name, value in values.items() for word in ("-p", f"{name}:={json.dumps(value)}")]
    return run(RecorderNode, ["--ros-args", *words])


def _simulate(args: argparse.Namespace) -> int:
    from starry_ros.ros.simulated_session import SimulatedConfig, simulate

    spec = load_robot_spec(robot_file(args.robot))
    config = SimulatedConfig(episodes=args.episodes, seed=args.seed, swap_after_s=args.swap_after,
                             limit_s=args.time_limit)
    done = simulate(spec, model_dir(args.model), args.runtime, args.simulate, config, args.model)
    print(f"{args.simulate}: {done['episodes']} episodes, {done['successes']} succeeded, {done['messages']} messages")
    return 0


def _recover(files: list[Path]) -> int:
    from starry_ros.recording.recover import recover

    for file in files:
        done = recover(file)
        state = "was whole" if done.whole else "had lost its end"
        print(f"{file} {state}: {done.messages} messages over {done.span_s:.1f} s in {done.path}")
    return 0
