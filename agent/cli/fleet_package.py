"""``overlaid fleet``: init, keys, pack, publish, packages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import fleet_prepare
from agent.cli.fleet_desk import add_command
from agent.cli.output import Commands, add_json, interrupted, print_json, print_table
from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.fleet.check import Agreement
    from agent.fleet.keys import KeyInfo
    from agent.fleet.pack import Packed


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    _register_init(commands)
    _register_keys(commands)
    fleet_prepare.register(commands)

    example = "overlaid fleet pack models/digits -o digits-1.0.0"
    text = "check a model folder's golden vectors and cut it into blocks"
    pack = add_command(commands, "pack", _pack, text, example)
    pack.add_argument(
        "model", type=Path, metavar="MODEL_DIR", help="folder with model.toml (docs/package.md)"
    )
    pack.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="package folder to make"
    )
    pack.add_argument(
        "--block-kib", type=_block_kib, default=256, metavar="1-256", help="largest block (default: 256)"
    )
    pack.add_argument(
        "--overlay",
        action="append",
        default=[],
        metavar="NAME",
        help="also compile the int8 variant for this FPGA overlay (or a folder with overlay.toml); may be repeated",
    )
    pack.add_argument("--no-check", action="store_true", help="do not load the variants on this machine")
    add_json(pack)

    text = "keep a package where fleet serve answers from, and let nodes install it"
    publish = add_command(commands, "publish", publish_package, text, "overlaid fleet publish digits-1.0.0")
    add_package(publish)

    packages = add_command(
        commands, "packages", _packages, "list what is published", "overlaid fleet packages --json"
    )
    add_json(packages)


def add_package(parser: argparse.ArgumentParser) -> None:
    """What ``publish_package`` needs."""
    parser.add_argument("package", type=Path, metavar="OUT", help="what overlaid fleet pack made")
    text = "refuse the package unless this team signs it (default: the team whose pattern matches)"
    parser.add_argument("--team", metavar="TEAM", help=text)
    add_json(parser)


def _register_init(commands: Commands[argparse.ArgumentParser]) -> None:
    example = "overlaid fleet init --site lab --broker localhost:1883"
    text = "make the operator's folder: which site, which broker"
    init = add_command(commands, "init", _init, text, example)
    init.add_argument(
        "--site", required=True, metavar="NAME", help="the site that its nodes name in their config"
    )
    init.add_argument(
        "--broker", required=True, metavar="HOST[:PORT]", help="default port: 1883, with --ca 8883"
    )
    init.add_argument("--username", metavar="NAME")
    init.add_argument("--password-file", type=Path, metavar="FILE", help="its first line is the password")
    init.add_argument("--ca", type=Path, metavar="FILE", help="the broker's authority; turns TLS on")
    init.add_argument("--cert", type=Path, metavar="FILE", help="the operator's client certificate")
    init.add_argument("--key", type=Path, metavar="FILE", help="and its key")
    init.add_argument("--force", action="store_true", help="replace an existing fleet.toml")
    add_json(init)


def _register_keys(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "keys",
        help="make and show signing keys",
        description="Make and show signing keys: 'commands' signs desired states and commands; the others sign what "
        "nodes may install (overlaid fleet repo).",
        epilog="example: overlaid fleet keys new commands",
    )
    keys = parser.add_subparsers(dest="keys_command", required=True, metavar="COMMAND")
    new = add_command(keys, "new", _keys_new, "make a signing key", "overlaid fleet keys new commands")
    text = "print a public key and the line for [trust] in a node's config"
    show = add_command(keys, "show", _keys_show, text, "overlaid fleet keys show commands")
    for command in (new, show):
        command.add_argument("name", metavar="NAME")
        add_json(command)
    add_json(add_command(keys, "list", _keys_list, "list the public keys", "overlaid fleet keys list --json"))


def _block_kib(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 256):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 256")
    return int(text)


def _init(args: argparse.Namespace) -> int:
    from agent.fleet.home import Home, parse_broker
    from agent.fleet.keys import COMMANDS
    from agent.paths import exists

    host, port = parse_broker(args.broker, tls=args.ca is not None)
    files = {name: _readable(name, getattr(args, name)) for name in ("password_file", "ca", "cert", "key")}
    mqtt: dict[str, object] = {"host": host, "port": port, "username": args.username, **files}
    home = Home(args.home)
    home.write_settings(args.site, mqtt, force=args.force)
    made = {f"keys new {COMMANDS}": home.keys / f"{COMMANDS}.pem", "repo init": home.repo / "root.json"}
    missing = [command for command, path in made.items() if not exists(path)]
    if args.json:
        print_json({"settings": str(home.settings_file), "site": args.site, "host": host, "port": port})
        return 0
    print(f"wrote {home.settings_file}")
    if missing:
        print("next: " + "; ".join(map(home.command, missing)))
    return 0


def _readable(name: str, path: Path | None) -> Path | None:
    """The absolute path of a file that fleet.toml will name; UsageError when it cannot be read or is empty."""
    if path is None:
        return None
    option, path = f"--{name.replace('_', '-')}", path.absolute()
    try:
        with path.open("rb") as file:
            if file.read(1):
                return path
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}; name a file that this user can read") from error
    raise UsageError(f"{option} {path}: the file is empty; name the one that was meant")


def _keys_new(args: argparse.Namespace) -> int:
    from agent.fleet.home import Home
    from agent.fleet.keys import new_key

    home = Home(args.home)
    return _print_key(new_key(home, args.name), home.keys, args.json)


def _keys_show(args: argparse.Namespace) -> int:
    from agent.fleet.home import Home
    from agent.fleet.keys import KeyInfo, load_key

    home = Home(args.home)
    return _print_key(KeyInfo(args.name, load_key(home, args.name).public), home.keys, args.json)


def _print_key(key: KeyInfo, folder: Path, as_json: bool) -> int:
    from agent.fleet.keys import trust_lines

    if as_json:
        print_json(_key_json(key))
        return 0
    print(f"{key.public}   # {key.name}, id {key.public.id}, in {folder}")
    lines = trust_lines(key)
    if lines:
        print("\n".join(("\nfor the nodes' config:\n[trust]", *lines)))
    return 0


def _key_json(key: KeyInfo) -> dict[str, str]:
    return {"name": key.name, "id": key.public.id, "public": str(key.public)}


def _keys_list(args: argparse.Namespace) -> int:
    from agent.fleet.home import Home
    from agent.fleet.keys import list_keys

    keys = list_keys(Home(args.home))
    if args.json:
        print_json([_key_json(key) for key in keys])
    else:
        print_table(("name", "id", "public key"), [(key.name, key.public.id, key.public) for key in keys])
    return 0


def _pack(args: argparse.Namespace) -> int:
    from agent.cli.bar import progress_bar
    from agent.errors import RuntimeUnavailable

    try:
        from agent.fleet.pack import pack
    except ImportError as error:
        raise RuntimeUnavailable(f"packing needs {error.name}: pip install 'overlaid[fleet]'") from error

    with interrupted(f"{args.output} was not made"), progress_bar() as progress:
        packed = pack(
            args.model,
            args.output,
            overlays=args.overlay,
            block_bytes=args.block_kib * 1024,
            check=not args.no_check,
            progress=progress,
        )
    if args.json:
        print_json(_packed_json(packed))
    else:
        _print_packed(packed, args)
    return 0


def _packed_json(packed: Packed) -> dict[str, Any]:
    return {
        "name": packed.manifest.name,
        "version": packed.manifest.version,
        "digest": packed.digest,
        "size": packed.size,
        "blocks": packed.blocks,
        "variants": [variant.name for variant in packed.manifest.variants],
        "checked": dict(packed.agreements),
    }


def _print_packed(packed: Packed, args: argparse.Namespace) -> None:
    manifest = packed.manifest
    rows = [
        (
            variant.name,
            variant.format,
            variant.precision,
            ", ".join(variant.devices),
            variant.accuracy,
            manifest.files[variant.file].size,
            _golden_text(packed.agreements.get(variant.name)),
        )
        for variant in manifest.variants
    ]
    columns = ("variant", "format", "precision", "devices", "accuracy", "bytes", "golden vectors")
    print_table(columns, rows, title=f"{manifest.name} {manifest.version}: {manifest.description}")
    print(f"{args.output}: {packed.size} bytes in {packed.blocks} blocks")
    print(f"digest {packed.digest}")


def _golden_text(agreement: Agreement | None) -> str:
    if agreement is None:
        return "not checked"
    return (
        f"{agreement.samples} agree on {agreement.backend}, off by at most {agreement.worst_difference:.3g}"
    )


def publish_package(args: argparse.Namespace) -> int:
    """``fleet publish`` and ``fleet repo add``."""
    from agent.cli.bar import progress_bar
    from agent.fleet.home import Home
    from agent.fleet.repo.publish import publish
    from agent.fleet.repository import Repository
    from agent.types import to_jsonable

    home = Home(args.home)
    with interrupted("nothing was published; run it again to go on"), progress_bar() as progress:
        added = publish(home, args.package, args.team, progress)
    entry = added.entry
    delta = Repository(home.packages, home.command).delta(entry)
    if args.json:
        print_json({**to_jsonable(entry), "team": added.team, "delta": delta, "problem": added.problem})
        return 0
    print(
        f"published {entry.name}@{entry.version} ({entry.size} bytes, digest {entry.digest}), signed by {added.team}"
    )
    if delta is not None:
        print(f"delta: {delta}")
    if added.problem:
        print(f"overlaid deploy cannot take this folder, which has no metadata: {added.problem}")
    return 0


def _packages(args: argparse.Namespace) -> int:
    from agent.fleet.home import Home
    from agent.fleet.repository import Repository

    entries = Repository(Home(args.home).packages).versions()
    if args.json:
        print_json(entries)
    else:
        columns = ("name", "version", "variants", "bytes", "digest")
        rows = [(e.name, e.version, ", ".join(e.variants), e.size, e.digest) for e in entries]
        print_table(columns, rows)
    return 0
