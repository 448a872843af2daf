"""`python -m rejoinder.cli`, for where the `rejoinder` command is not on the path."""

from rejoinder.cli import main

raise SystemExit(main())
