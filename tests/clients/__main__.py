"""Every flow of every client against a running service, one line each: `python -m tests.clients URL`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from tests.clients.flows import flows
from tests.clients.shells import Cloud


def main() -> int:
    parser = argparse.ArgumentParser(prog="ops/clients", description=__doc__)
    parser.add_argument("url", nargs="?", help="an endpoint that asks for no authentication")
    parser.add_argument("--cloud", help="a cloud of clouds.yaml (OS_CLIENT_CONFIG_FILE), with Keystone")
    parser.add_argument("--other", help="a second cloud, in another project: images are shared with it")
    parser.add_argument("--admin", help="a third cloud, of an administrator: copying images is for them")
    given = parser.parse_args()
    if bool(given.url) == bool(given.cloud):
        parser.error("give a URL or a cloud")
    warnings.simplefilter("ignore")
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        for name, flow in flows(Cloud(given.url, given.cloud, given.other, given.admin), Path(directory)):
            began = time.perf_counter()
            try:
                flow()
            except Exception as error:
                failed += 1
                print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
                traceback.print_exc(file=sys.stderr)
            else:
                print(f"pass {name} ({time.perf_counter() - began:.1f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
