"""Where the command begins. An interrupt while its modules are still imported is one line, too."""

import sys


def main() -> None:
    """Run `fabricbios`."""
    try:
        from fabricbios.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("fabricbios: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
