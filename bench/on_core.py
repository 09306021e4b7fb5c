"""``python -m bench.on_core CORE PROGRAM …``: run a program on one core; where there is no such core, on any."""

import os
import sys

if __name__ == "__main__":
    core, program = int(sys.argv[1]), sys.argv[2:]
    if core < (os.cpu_count() or 1):
        os.sched_setaffinity(0, {core})
    os.execv(program[0], program)
