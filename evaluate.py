"""The command evaluate: ``python evaluate.py --help`` says how."""

from spinwarp.cli.evaluate import main

if __name__ == "__main__":
    main()
