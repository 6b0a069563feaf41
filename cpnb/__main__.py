"""The command line: ``python -m cpnb COMMAND``, or ``cpnb COMMAND``."""

import importlib
import sys

COMMANDS = {
    "sweep": ("cpnb.runs.sweep", "run notebooks, with parameters or over a grid of them"),
    "report": ("cpnb.study.report", "the table of claims, from the committed records"),
    "publish": ("cpnb.runs.publish", "copy this machine's records into the committed ones"),
    "grade": ("cpnb.course.grade", "grade the submissions of a class, or one notebook"),
    "assignments": ("cpnb.course.build", "build what students get, and test the tests"),
}
HELP = "\n".join(
    ["usage: python -m cpnb COMMAND [-h] ...", "", "commands:"]
    + [f"  {name:13}{text}" for name, (_, text) in COMMANDS.items()]
)


def main(arguments: list[str] | None = None) -> int:
    """Hand over to a command; each has a help of its own."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(HELP)
        return 0
    if name not in COMMANDS:
        print(f"no such command: {name}\n\n{HELP}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[name]
    return importlib.import_module(module).main(rest)  # only now: PyTorch takes seconds


if __name__ == "__main__":
    sys.exit(main())
