# SPDX-License-Identifier: Apache-2.0
"""`python -m flprov.cli`: the `flprov` command of this very interpreter, whatever PATH says."""

from flprov.cli import main

if __name__ == "__main__":
    main()
