"""`starry report`: one page about a recording, and its figures as JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

from starry_ros.errors import DataError
from starry_ros.files import write_text
from starry_ros.paths import robot_file
from starry_ros.ranges import NOT_NEGATIVE
from starry_ros.recording.figures import measure, summary
from starry_ros.recording.page import moment_picture, page
from starry_ros.recording.reader import Recording
from starry_ros.recording.screenshot import screenshot
from starry_ros.report import add_json_argument, write_report
from starry_ros.robot_spec import RobotSpec, load_robot_spec

PAGE_PX = (1000, 1200)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry report`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="recording of a session")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: FILE with .html)")
    parser.add_argument("--robot", help="robot contract (default: the one in the recording)")
    parser.add_argument("--screenshot", type=Path, metavar="FILE.png",
                        help="also open the page in a browser without a screen and keep its top; needs Playwright")
    parser.add_argument("--picture", type=NOT_NEGATIVE, metavar="S", help="write only the cameras with overlays then")
    add_json_argument(parser)


def report_command(args: argparse.Namespace) -> int:
    """Write the page."""
    recording = Recording(args.file)
    spec = load_robot_spec(robot_file(args.robot)) if args.robot else recording.spec()
    if args.picture is not None:
        return _picture(recording, spec, args.picture, args.out or args.file.with_suffix(".jpg"))
    figures = measure(recording, spec)
    out = args.out or args.file.with_suffix(".html")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page(recording, spec, figures))
    print(f"written: {out} ({out.stat().st_size / 1024:.0f} KiB)")
    if args.screenshot is not None:
        screenshot(out.resolve().as_uri(), args.screenshot, 0.5, PAGE_PX)
        print(f"written: {args.screenshot} ({args.screenshot.stat().st_size / 1024:.0f} KiB)")
    if args.json is not None:
        write_report(args.json, [dict(summary(figures))])
    return 0


def _picture(recording: Recording, spec: RobotSpec, at_s: float, out: Path) -> int:
    picture = moment_picture(recording, spec, recording.start_ns + round(at_s * 1e9))
    if picture is None or not cv2.imwrite(str(out), picture[..., ::-1]):
        expected = f"0 to {recording.seconds:.1f} s"
        raise DataError(str(recording.path), f"has no camera images at {at_s:g} s", expected=expected)
    print(f"written: {out}")
    return 0
