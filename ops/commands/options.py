"""Options that several commands have, and what the exit codes mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

OK: Final = 0
TROUBLE: Final = 1
USAGE: Final = 2
DIFFERENCE: Final = 3
INTERRUPTED: Final = 130

EXIT_CODES: Final = (
    "Exit codes: 0 all is well; 1 trouble, said in one line on stderr; 2 wrong usage; "
    "3 a difference was found, or an import failed; 130 interrupted by Ctrl-C."
)

ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option("--config-file", help="Configuration file, such as glance-api.conf; may be repeated.", exists=True),
]
Dsn = Annotated[
    str | None, typer.Option("--database", envvar="ENTREPOT_DATABASE", help="DSN of a Postgres; else an embedded one.")
]
State = Annotated[
    Path | None, typer.Option("--state", envvar="ENTREPOT_STATE", help="Directory of the embedded database and keys.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Url = Annotated[str, typer.Option("--url", envvar="ENTREPOT_URL", help="Where the service answers.")]
Token = Annotated[
    str | None, typer.Option("--token", envvar=["ENTREPOT_TOKEN", "OS_TOKEN"], help="Token to authenticate with.")
]

HERE: Final = "http://127.0.0.1:9292"
