"""`make demo-live`: the demo's containers, left running."""

import sys

from examples.demo import main

if __name__ == "__main__":
    sys.exit(main(["--live"]))
