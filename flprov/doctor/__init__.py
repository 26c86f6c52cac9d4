# SPDX-License-Identifier: Apache-2.0
"""`flprov doctor`: everything that can be known from here about why a party does not work.

Start reading at `examination.py`. Each check looks at one thing and gives rows; none stops another.
"""

from flprov.doctor.examination import LIMIT, Progress, examine

__all__ = ["LIMIT", "Progress", "examine"]
