"""The command line of `migrating_client.py`. It never looks at the network."""

from __future__ import annotations

import argparse

from keys import GROUPS, SUITES

CORRUPTIONS = ("token-signature", "token-truncate", "token-trailing", "binder", "ticket")
FORGERIES = ("target", "expiry", "nonce")
NO_SHARE = "none"

Address = tuple[str, int]


def address(text: str) -> Address:
    """`HOST:PORT`, an IPv6 address in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def forgery(text: str) -> tuple[str, str]:
    """`target=IP:PORT`, `expiry=SECONDS` or `nonce`."""
    what, _, value = text.partition("=")
    if what not in FORGERIES or (what == "nonce") != (value == ""):
        raise argparse.ArgumentTypeError(f"{text!r} is not target=IP:PORT, expiry=SECONDS or nonce")
    if what == "target":
        address(value)
    elif what == "expiry" and not value.lstrip("-").isdigit():
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds")
    return what, value


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The parsed command line; exits with status 2 and a usage line when it is wrong."""
    parser = argparse.ArgumentParser(description="Follow one TLS 1.3 session migration and report it as JSON.")
    _basic_options(parser)
    _hello_options(parser)
    _adversary_options(parser)
    args = parser.parse_args(argv)
    if args.offer_group_first and not args.group:
        parser.error("--offer-group-first needs --group, the group that the retry shall lead to")
    if args.offer_group_first == args.group is not None:
        parser.error("--offer-group-first and --group must differ")
    if args.hello_fragments < 1:
        parser.error("--hello-fragments needs at least 1")
    return args


def _basic_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connect", type=address, required=True, metavar="HOST:PORT", help="the first server, A")
    parser.add_argument("--server-name", required=True, metavar="NAME", help="name that every certificate must carry")
    parser.add_argument("--ca", required=True, metavar="FILE", help="PEM file of trust anchors")
    parser.add_argument("--send", metavar="TEXT", help="line for A")
    parser.add_argument("--send-early", metavar="TEXT", help="line for B, as 0-RTT data where the ticket allows it")
    parser.add_argument("--until-notify", action="store_true", help="stay on A until migrate_notify arrives")
    parser.add_argument("--await-bytes", type=int, default=0, metavar="N", help="stay on A for N application bytes")
    parser.add_argument("--drain", action="store_true", help="read A to its end before B; half-close it first if the stream goes on at B")
    parser.add_argument("--finish", action="store_true", help="half-close B once the line is sent")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="longest silence, in seconds")
    parser.add_argument("--json", action="store_true", help="print the report on one line")


def _hello_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", choices=SUITES, help="offer this cipher suite alone")
    parser.add_argument("--group", choices=GROUPS, help="offer this group alone")
    parser.add_argument(
        "--offer-group-first",
        choices=(*GROUPS, NO_SHARE),
        help="send a key share for this group only (or none), to provoke a HelloRetryRequest for --group",
    )
    parser.add_argument("--retry-leg", choices=("a", "b", "both"), default="both", help="where the option above holds")
    parser.add_argument("--hello-fragments", type=int, default=1, metavar="N", help="records per ClientHello")


def _adversary_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("adversary", "the report then tells what the server did, with status 0")
    group.add_argument("--forge", type=forgery, metavar="WHAT", help="change a field and sign the token again")
    group.add_argument("--corrupt", choices=CORRUPTIONS, help="spoil one part of the ClientHello to B")
    group.add_argument("--no-token", action="store_true", help="leave migration_token out")
    group.add_argument("--no-psk", action="store_true", help="leave pre_shared_key out")
    group.add_argument("--replay", action="store_true", help="present ticket and token a second time")
    group.add_argument("--raw-hello-copy", action="store_true", help="send B a copy of the first flight beforehand")
    group.add_argument("--connect-b", type=address, metavar="HOST:PORT", help="connect here in place of the target")


def is_adversary(args: argparse.Namespace) -> bool:
    """True when the run shall report the server's reaction instead of judging it."""
    changed = args.forge or args.corrupt or args.no_token or args.no_psk
    return bool(changed or args.replay or args.raw_hello_copy or args.connect_b)
