"""The help of a command beside its options: what it does and prints, how it ends, and what it reads.

The texts are printed unchanged, so their lines fit a terminal.
"""

from __future__ import annotations

ABOUT = {
    "up": """\
Starts Envoy, its control plane and the ext_proc service, and runs them until
Ctrl-C or SIGTERM. Every change of the files is live within a second; what does
not load, or what Envoy rejects, changes nothing and is reported.

Standard output has a line for each address that Envoy listens on, and with
--log one for each request that a rule answers. Standard error has the log:
problems of the files with file and line, reloads, and Envoy's own warnings.""",
    "serve": """\
Serves the files' configuration to Envoys that ask for it by xDS, and answers
them as an ext_proc service, until Ctrl-C or SIGTERM. Every change of the files
is live within a second; what does not load changes nothing, and from what an
Envoy rejects it goes back. A start over files that cannot be used waits for
them.

Standard error has the log: problems of the files with file and line, reloads,
Envoys that come, go and reject.""",
    "check": """\
Reads the files as `up` and `serve` do, and says all that is wrong with them,
each with file and line, and what has become of each Kubernetes object. Nothing
is started and nobody is asked.

Standard output has the problems; standard error a line that counts upstreams,
routes and rules if all is fine.""",
    "explain": """\
Says what becomes of a request: what Envoy makes of it, which route takes it,
each rule with why it fits or not, where the answer is given, and what is sent.
Without --status, what is done for each status. Nothing is sent.""",
    "render": """\
Prints a configuration with all routes and answers in it, for an Envoy that
nobody tells about later edits. Standard error has notes on what it needs:
private keys that stand in it, the module, the ext_proc service.""",
    "bootstrap": """\
Prints YAML on standard output: a whole configuration for an Envoy of ours
(ads), or what to paste into that of an Envoy that is configured by somebody
else (ext_proc, module). Standard error has notes on what it needs.""",
    "preview": """\
Writes a file for each status, format and language, and index.html with links
to all of them.""",
    "init": """\
Writes a commented rule file that `rejoinder up` starts with, and beside it
.rejoinder.schema.json, by which editors complete and check it. What is there
already is never overwritten.""",
    "schema": """\
Prints the JSON Schema (2020-12) of the rule file on standard output. An editor
with yaml-language-server reads it where the first line of a rule file says: #
yaml-language-server: $schema=PATH. It knows fields and how values are written;
what takes a look at other files or other rules, `rejoinder check` says.""",
    "completion": """\
Prints a script for the shell on standard output, which completes commands,
options, their values and files.""",
}

_UNUSABLE = "2  the arguments cannot be used"
_LOADED = f"0  done   1  the files cannot be loaded   {_UNUSABLE}"
_RUNS = f"0  ended by Ctrl-C or SIGTERM   1  {{}}   {_UNUSABLE}"

ENDS = {
    "up": _RUNS.format("it cannot start, or Envoy has ended, or (with --state) the files cannot be used"),
    "serve": _RUNS.format("it cannot start, or (with --state) the files cannot be used"),
    "check": f"0  nothing is wrong (without --strict: no error)   1  something is   {_UNUSABLE}",
    "explain": _LOADED,
    "render": _LOADED,
    "bootstrap": _LOADED,
    "preview": f"0  done   1  a file cannot be read or written   {_UNUSABLE}",
    "init": f"0  done   1  the file is there already, or cannot be written   {_UNUSABLE}",
    "schema": f"0  done   {_UNUSABLE}",
    "completion": f"0  done   {_UNUSABLE}",
}

_ENVIRONMENT = {
    "ENVOY_BIN              the Envoy to run, if --envoy names none": ("up",),
    "SSL_CERT_FILE          the authorities that https:// upstreams are verified with; see --trusted-ca": (
        "up",
        "serve",
        "render",
        "bootstrap",
    ),
    "PYTHONPATH             where handlers are, beside the folders of the files": ("up", "serve", "check", "explain"),
    "REJOINDER_LOG_FORMAT   text or json; see --log-format": ("up", "serve"),
    "NO_COLOR, TERM=dumb    no colours on a terminal": ("up", "serve", "check", "explain"),
}

_SOURCES = """\
SOURCE is a file or a folder, whose *.yaml, *.yml and *.json are read in the
order of their names, without those that start with a dot. body_file,
certificate, key and other names of files in them are relative to the file."""

EXAMPLES = {
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


def epilog(command: str) -> str:
    """What stands behind the options."""
    sections = (
        ("files", [] if command in ("preview", "init", "schema", "completion") else _SOURCES.splitlines()),
        ("environment", [line for line, commands in _ENVIRONMENT.items() if command in commands]),
        ("exit code", ENDS[command].split("   ")),
    )
    return (
        "".join(f"{name}:\n" + "".join(f"  {line}\n" for line in lines) + "\n" for name, lines in sections if lines)
        + EXAMPLES[command]
    )
