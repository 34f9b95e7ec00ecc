"""The command train: ``python train.py --help`` says how."""

import sys

try:
    from spinwarp.cli.train import main
except ModuleNotFoundError as error:
    if error.name != "spinwarp":
        raise
    sys.exit("error: spinwarp is not installed in this Python; run make setup once, then source .venv/bin/activate")

if __name__ == "__main__":
    main()
