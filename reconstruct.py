"""The command reconstruct: ``python reconstruct.py --help`` says how."""

from spinwarp.cli.reconstruct import main

if __name__ == "__main__":
    main()
