"""`starry <verb>`: parses arguments and calls one function of another room, imported only then.

A verb names a function, which returns an exit code or None for 0. Its options are declared beside it, by
`add_<function>_arguments` or, where a module serves one verb, `add_arguments`. A room whose modules are slow to import
declares them in its module `arguments`, so that help and complaints come at once.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from starry_ros.errors import StarryError

EXIT_OK, EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = """\
exit codes:
  0    done, and every bar or check was met
  1    a bar or a check was missed, or the software has failed
  2    wrong usage, or an error that you can fix; one line says how
  130  stopped by Ctrl-C"""
EXAMPLES = """\
examples:
  starry demo                           the simulated robot does five sentences through ROS 2
  starry up --record true               the same graph, to play with; then call /arm and /set_instruction
  starry data generate --help           every verb explains itself
  starry check machine                  what is installed, what is missing, and how to get it"""

_USERS_ERRNO = {errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Verb:
    """One command: its help and the function that does the work."""

    summary: str
    module: str
    function: str
    description: str = ""


GROUPS = {
    "data": "make, bring in, look at and change training data",
    "fuzz": "try the software with random input",
    "model": "look into models",
    "check": "check a robot contract, a model, a data set or this machine",
}
VERBS: dict[tuple[str, ...], Verb] = {
    ("up",): Verb(
        "start the whole graph of nodes", "starry_ros.ros.up", "up_command",
        "Starts every node as a process of its own, prints what they say, restarts those that move nothing, and ends "
        "all on Ctrl-C. On a ROS 2 distribution, ros2 launch starry_ros bimanual.launch.py starts the same graph.",
    ),
    ("demo",): Verb(
        "run episodes through ROS 2 and film them", "starry_ros.ros.demo", "demo_command",
        "Starts the graph with the simulated robot, gives it sentences, and writes a report, pictures and a film.",
    ),
    ("record",): Verb(
        "record the running graph into one MCAP file", "starry_ros.ros.record", "record_command",
        "Every topic, raw, with the robot contract, the parameters of all nodes, the model's hashes and the versions. "
        "Foxglove, mcap and rosbag2 open the file.",
    ),
    ("replay",): Verb(
        "make the plans of a recording again and compare", "starry_ros.ros.replay", "replay_command",
        "Plans offline from the recorded canvases and joint states, and says where and by how much the plans differ: "
        "not at all on the same runtime and weights. With --to-ros, feeds the sensors to a live graph instead.",
    ),
    ("report",): Verb(
        "one page about a recording", "starry_ros.recording.report", "report_command",
        "Latencies, slack, stalls, splices, jerk, refusals, frames lost, surprise, and the worst moments with "
        "pictures; one HTML file that needs no network.",
    ),
    ("view",): Verb(
        "show the running graph or a recording in the browser", "starry_ros.ros.view", "view_command",
        "Cameras with overlays, imagined beside real, plans in time and space, joints, latency, mode and log, by a "
        "Rerun server that only this machine can reach unless --host says otherwise.",
    ),
    ("top",): Verb(
        "the health of the running graph in the terminal", "starry_ros.ros.top", "top_command",
        "Mode, plan, latencies, rates and ages of topics, and the diagnostics of all nodes. With --once S, prints once "
        "and exits with 1 when a node reports an error.",
    ),
    ("eval",): Verb(
        "measure the success of policies in closed loop", "starry_ros.training.evaluate", "evaluate_command",
        "Runs episodes in the simulated cell without ROS and reports success with 95 % intervals.",
    ),
    ("train",): Verb(
        "train a model", "starry_ros.training.train", "train_command",
        "Trains from a data set of `starry data generate` and an autoencoder of `starry train-autoencoder`; can be "
        "stopped at any time and resumed.",
    ),
    ("train-rl",): Verb(
        "improve a model's actions by reinforcement learning", "starry_ros.training.train_rl", "train_rl_command",
        "GRPO on the action stream alone: plays episodes in the simulated cell, rewards plans by the model's own value "
        "map and by success. All other tensors are frozen, and proven so after every iteration.",
    ),
    ("train-autoencoder",): Verb(
        "train the image autoencoder that a model builds on", "starry_ros.training.train_autoencoder",
        "train_autoencoder_command",
        "Trains from a data set of `starry data generate`; can be stopped at any time and resumed.",
    ),
    ("train-state-tokens",): Verb(
        "train the compact state: a frame as two tokens", "starry_ros.training.train_state_tokens",
        "train_state_tokens_command",
        "Trains a frame-to-two-tokens-to-frame autoencoder from images alone; the difference of two states is a "
        "motion. Can be stopped at any time and resumed.",
    ),
    ("eval-state-tokens",): Verb(
        "measure how much of the action a motion tells", "starry_ros.training.probe_states",
        "eval_state_tokens_command",
        "Linear and MLP probes from state differences to joint displacements on held-out episodes, beside the same "
        "probes on pooled pixel differences. Exit code 1: the bar was missed.",
    ),
    ("export",): Verb(
        "export a model's graphs to ONNX for the faster runtimes", "starry_ros.wam.export", "export_command",
        "Writes graphs without weights beside model.safetensors, and checks each installed runtime against PyTorch. "
        "Needed once a shape of model; takes about a minute. Without it, a model runs on PyTorch.",
    ),
    ("model", "inspect"): Verb(
        "say what a model is and whether it fits this machine", "starry_ros.wam.inspect", "inspect_command",
        "Streams, parameters, tokens, bytes of weights and history, without allocating them: of a preset, of a model "
        "folder, or of a folder of public Wan2.2-TI2V-5B or LingBot-VA weights. Exit code 1: it does not fit.",
    ),
    ("model", "average"): Verb(
        "one model from several trainings of the same start", "starry_ros.wam.average", "average_command",
        "The mean of the weights of model folders with equal configuration, units and autoencoder: often better than "
        "each of them.",
    ),
    ("model", "adopt"): Verb(
        "let a published model serve a robot", "starry_ros.training.adopt", "adopt_command",
        "Writes serving.json into a folder of LingBot-VA weights, or of Wan2.2-TI2V-5B with trained streams: which "
        "joint of the robot is in which slot of the model's actions, and how they are normalised.",
    ),
    ("calibrate",): Verb(
        "measure what surprise is usual for a model", "starry_ros.training.calibrate", "calibrate_command",
        "Plays undisturbed episodes and episodes in which a block is nudged, writes surprise.json into the model's "
        "folder, and reports how well the nudges are told. Without that file a model's surprise is not published.",
    ),
    ("data", "generate"): Verb(
        "let the expert record episodes", "starry_ros.training.generate", "generate_command",
        "Runs the scripted expert in the simulated cell and stores images, joints, sentences and value labels.",
    ),
    ("data", "import"): Verb(
        "bring in LeRobot data sets or MCAP recordings", "starry_ros.data.transfer", "import_command",
        "Brings recordings to the model's rate and canvas and labels contacts from gripper events, forward kinematics "
        "and depth. LeRobotDataset v3 and v2.1, MCAP of this project's recorder or of rosbag2.",
    ),
    ("data", "export"): Verb(
        "write a data folder as a LeRobot data set or as MCAP", "starry_ros.data.transfer", "export_command",
        "LeRobotDataset v3 opens in lerobot; images are coded without loss, labels are features of their own.",
    ),
    ("data", "merge"): Verb("put several data folders into one", "starry_ros.data.merge", "merge_command"),
    ("data", "show"): Verb("list episodes, picture one", "starry_ros.data.tools", "show_command"),
    ("data", "check"): Verb("name every bad episode", "starry_ros.data.tools", "check_command"),
    ("data", "trim"): Verb("cut rest, or given seconds, from both ends", "starry_ros.data.tools", "trim_command"),
    ("data", "resample"): Verb(
        "play episodes faster or slower, fill gaps in their times", "starry_ros.data.tools", "resample_command",
        "Makes plans anew from the commands; contacts and stages keep their moments.",
    ),
    ("data", "annotate"): Verb(
        "label contacts, stages and progress", "starry_ros.data.tools", "annotate_command",
        "Adds progress to what is stored, or labels everything anew from joints alone and says how far that is off.",
    ),
    ("chaos",): Verb(
        "inject faults into the running graph and judge the arms", "starry_ros.ros.chaos", "chaos_command",
        "Starts the graph with the simulated robot, injects faults in motion (cameras, joint states, plans, planner, "
        "processes, driver, clock, flood, disk, emergency stop) and judges by the simulated robot's own joint states.",
    ),
    ("fuzz", "executor"): Verb(
        "offer the executor random plans and events", "starry_ros.bench.fuzz_run", "fuzz_command",
        "Good, bad and absurd plans, services, faults and clocks in random order; every command is checked against "
        "every limit and the arms in space. A seed replays its run. Exit code 1: something was not in order.",
    ),
    ("check", "robot"): Verb("check a robot contract", "starry_ros.checks", "check_robot"),
    ("check", "model"): Verb("check a model folder", "starry_ros.checks", "check_model"),
    ("check", "data"): Verb("check a data set", "starry_ros.data.tools", "check_command"),
    ("check", "machine"): Verb("check what this machine has", "starry_ros.checks", "check_machine"),
    ("bench",): Verb(
        "measure what has a bar", "starry_ros.checks", "bench_command",
        "Each row has a value, the baseline measured in the same run, and their ratio. Exit code 1: a bar was missed.",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        parser, verb = build_parser(words)
        args = parser.parse_args(words)
        if verb is None:
            parser.print_help()
            return EXIT_USER_ERROR
        code = int(getattr(importlib.import_module(verb.module), verb.function)(args) or EXIT_OK)
        sys.stdout.flush()
        return code
    except StarryError as error:
        return _complain(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "starry_ros":
            raise
        return _complain(f"{error.name}: is not installed. Fix: make setup, or pip install {error.name}")
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        if error.errno not in _USERS_ERRNO:
            raise
        return _complain(f"{error.filename or 'a file'}: {error.strerror}. Fix: choose another place, or make room")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return EXIT_INTERRUPTED


def build_parser(words: Sequence[str]) -> tuple[argparse.ArgumentParser, Verb | None]:
    """The parser, and the verb that `words` name. Only that verb's module is imported, for its arguments."""
    chosen = next((key for key in VERBS if tuple(words[: len(key)]) == key), ())
    parser = argparse.ArgumentParser(
        prog="starry", description="From cameras and a sentence to safe motion of two arms.",
        epilog=f"{EXAMPLES}\n\n{EXIT_CODES}", formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="<verb>")
    groups = {}
    for name, text in GROUPS.items():
        group = verbs.add_parser(name, help=text, description=text)
        groups[name] = group.add_subparsers(title="verbs", metavar="<verb>", required=True)
    for key, verb in VERBS.items():
        child = (groups[key[0]] if len(key) == 2 else verbs).add_parser(
            key[-1], help=verb.summary, description=textwrap.fill(verb.description or verb.summary, 100),
            epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if key == chosen:
            _declare(child, verb)
    return parser, VERBS.get(chosen)


def _declare(parser: argparse.ArgumentParser, verb: Verb) -> None:
    """Add the verb's options."""
    name, room = f"add_{verb.function}_arguments", verb.module.rpartition(".")[0]
    if room and importlib.util.find_spec(f"{room}.arguments"):
        light = importlib.import_module(f"{room}.arguments")
        if hasattr(light, name):
            getattr(light, name)(parser)
            return
    module = importlib.import_module(verb.module)
    (getattr(module, name, None) or module.add_arguments)(parser)


def _complain(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return EXIT_USER_ERROR


if __name__ == "__main__":
    raise SystemExit(main())
