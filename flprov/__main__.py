# SPDX-License-Identifier: Apache-2.0
"""`python -m flprov` is `flprov`."""

from flprov.cli import main

if __name__ == "__main__":
    main()
