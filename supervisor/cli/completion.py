"""completion: a script for a shell, made from the table of commands."""

from __future__ import annotations

from supervisor.cli.args import UsageError
from supervisor.cli.main import Context
from supervisor.cli.table import COMMANDS


def completion(context: Context) -> int:
    shell = context.args.names[0]
    make = {"bash": _bash, "zsh": _zsh, "fish": _fish}.get(shell)
    if make is None:
        raise UsageError(f"bash, zsh or fish, not {shell}")
    for line in make():
        context.say(line)
    return 0


def _verbs() -> str:
    return " ".join(one.name for one in COMMANDS)


def _named() -> list[str]:
    return [one.name for one in COMMANDS if "NAME" in one.usage]


def _flags(name: str) -> str:
    return " ".join(flag for one in COMMANDS if one.name == name for option in one.options for flag in option.flags)


def _bash() -> list[str]:
    lines = [
        "_wharfctl() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" verb="${COMP_WORDS[1]}"',
        '    if [ "$COMP_CWORD" -eq 1 ]; then',
        f'        COMPREPLY=($(compgen -W "{_verbs()}" -- "$word")); return',
        "    fi",
        '    case "$word" in -*)',
        '        case "$verb" in',
    ]
    lines += [
        f'            {one.name}) COMPREPLY=($(compgen -W "{_flags(one.name)}" -- "$word"));;'
        for one in COMMANDS
        if one.options
    ]
    lines += [
        "        esac; return;;",
        "    esac",
        f'    case "$verb" in {"|".join(_named())})',
        '        COMPREPLY=($(compgen -W "$(wharfctl status 2>/dev/null | cut -d\' \' -f1)" -- "$word"));;',
        '    config) COMPREPLY=($(compgen -W "schema check dump" -- "$word"));;',
        "    esac",
        "}",
        "complete -F _wharfctl wharfctl",
    ]
    return lines


def _zsh() -> list[str]:
    return ["#compdef wharfctl", "autoload -U +X bashcompinit && bashcompinit", *_bash()]


def _fish() -> list[str]:
    lines = ["complete -c wharfctl -f"]
    for one in COMMANDS:
        lines.append(f"complete -c wharfctl -n __fish_use_subcommand -a {one.name} -d '{one.help}'")
        for option in one.options:
            for flag in option.flags:
                form = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                lines.append(
                    f"complete -c wharfctl -n '__fish_seen_subcommand_from {one.name}' {form} -d '{option.help}'"
                )
    names = "(wharfctl status 2>/dev/null | string split -f1 ' ')"
    lines.append(f"complete -c wharfctl -n '__fish_seen_subcommand_from {' '.join(_named())}' -a \"{names}\"")
    return lines
