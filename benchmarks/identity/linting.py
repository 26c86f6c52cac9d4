# SPDX-License-Identifier: Apache-2.0
"""pkilint over many files in one process. Run by the Python that pkilint is installed in, not by ours.

    python linting.py WORK.json FINDINGS.json

WORK.json is a list of [linter, file, ...]; each entry is what one would type, such as
`lint_pkix_cert lint FILE`, and the very same code runs, so its verdict is that of the command.
FINDINGS.json is {"pkilint": version, "runs": number, "findings": [...]}.
"""

import contextlib
import importlib.metadata
import io
import json
import sys
from pathlib import Path

from pkilint.bin import lint_crl, lint_pkix_cert, lint_pkix_signer_signee_cert_chain

_COMMANDS = {
    "lint_pkix_cert": (lint_pkix_cert.main, []),
    "lint_pkix_signer_signee_cert_chain": (lint_pkix_signer_signee_cert_chain.main, []),
    "lint_crl": (lint_crl.main, ["--type", "CRL", "--profile", "PKIX"]),
}


def lint(linter: str, files: list[str]) -> list[dict[str, str]]:
    """What one command finds, down to the severity DEBUG. A file that it cannot load is a finding too."""
    command, options = _COMMANDS[linter]
    shown, complaint = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(complaint):
        count = command(["lint", *options, "--severity", "DEBUG", "--format", "JSON", *files])
    if complaint.getvalue():
        return [_finding(linter, files, "FATAL", "not loaded", complaint.getvalue(), "")]
    found = [
        _finding(linter, files, each["severity"], each["code"], each["message"] or "", result["node_path"])
        for result in json.loads(shown.getvalue())["results"]
        for each in result["finding_descriptions"]
    ]
    assert min(len(found), 255) == count, (linter, files, count)
    return found


def _finding(
    linter: str, files: list[str], severity: str, code: str, message: str, node: str
) -> dict[str, str]:
    return {
        "linter": linter,
        "file": files[-1],
        "severity": severity,
        "code": code,
        "message": message,
        "node": node,
    }


def main() -> None:
    """Every entry of the work, one after the other."""
    work = json.loads(Path(sys.argv[1]).read_text())
    findings = [found for linter, *files in work for found in lint(linter, files)]
    document = {
        "pkilint": importlib.metadata.version("pkilint"),
        "runs": len(work),
        "findings": findings,
    }
    Path(sys.argv[2]).write_text(json.dumps(document))


if __name__ == "__main__":
    main()
