"""What draft -03 of TLS service affinity adds to TLS 1.3, on tlslite-ng as it comes from PyPI.

Written from the draft alone; it shares no code with the servers and clients that it meets. Section numbers are the draft's.
"""

import select
import time

from tlslite import tlsconnection
from tlslite.constants import ContentType, ExtensionType
from tlslite.extensions import TLSExtension
from tlslite.handshakesettings import HandshakeSettings
from tlslite.messages import ClientHello, Finished, HandshakeMsg, NewSessionTicket, ServerHello
from tlslite.tlsconnection import TLSConnection
from tlslite.utils.codec import Parser, Writer

MIGRATION_SUPPORT = 0xFE4D
MIGRATION_ALLOWED = 0xFE4E
MIGRATE_REQUEST = 0xFD

HANDSHAKE_HELPERS = tlsconnection.HandshakeHelpers


class MigrateRequest(HandshakeMsg):
    """Section 5.3: please go to `target`; empty leaves the choice to the client."""

    def __init__(self, target=b""):
        super().__init__(MIGRATE_REQUEST)
        self.target = bytearray(target)

    def write(self):
        writer = Writer()
        writer.addVarSeq(self.target, 1, 2)
        return self.postWrite(writer)

    def parse(self, parser):
        parser.startLengthCheck(3)
        self.target = parser.getVarBytes(2)
        parser.stopLengthCheck()
        return self


def empty_extension(kind):
    return TLSExtension(extType=kind).create(kind, bytearray())


def offers_support(hello):
    return any(extension.extType == MIGRATION_SUPPORT for extension in hello.extensions or [])


def is_allowed(ticket):
    return any(extension.extType == MIGRATION_ALLOWED for extension in ticket.extensions)


def offer_support(hello):
    """Puts migration_support before pre_shared_key, which stays the last one."""
    if offers_support(hello):
        return
    extensions = hello.extensions
    has_psk = extensions and extensions[-1].extType == ExtensionType.pre_shared_key
    extensions.insert(len(extensions) - (1 if has_psk else 0), empty_extension(MIGRATION_SUPPORT))


class Helpers(HANDSHAKE_HELPERS):
    """Binders cover the hello, so the extension must be in it before they are made."""

    @staticmethod
    def update_binders(hello, *arguments):
        if getattr(hello, "offers", False):
            offer_support(hello)
        HANDSHAKE_HELPERS.update_binders(hello, *arguments)


def hello_type(offers):
    class Hello(ClientHello):
        def write(self):
            if self.offers:
                offer_support(self)
            return super().write()

    Hello.offers = offers
    return Hello


def dhe_settings(**changes):
    """Section 6.3: psk_dhe_ke only."""
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = (3, 4)
    settings.psk_modes = ["psk_dhe_ke"]
    for name, value in changes.items():
        setattr(settings, name, value)
    return settings


class ClientConnection(TLSConnection):
    """A client that offers migration_support, unless told not to, and takes migrate_request."""

    def __init__(self, sock, offers=True):
        super().__init__(sock)
        self.transport = sock
        self.offers = offers
        self.requests = []
        self.received = b""
        self.ended = False
        self.reader = None
        tlsconnection.HandshakeHelpers = Helpers
        tlsconnection.ClientHello = hello_type(offers)

    def _getNextRecord(self):
        for result in super()._getNextRecord():
            if result in (0, 1):
                yield result
                continue
            header, parser = result
            asks = header.type == ContentType.handshake and parser.bytes[:1] == bytes([MIGRATE_REQUEST])
            # In the handshake and unasked, it goes to the library, which knows the alert.
            if asks and self.offers and self.session:
                self.requests.append(bytes(MigrateRequest().parse(Parser(parser.bytes[1:])).target))
            else:
                yield result

    def read_until(self, wanted, seconds):
        """Reads, after the handshake, until `wanted()` holds or the server has ended. tlslite's own `read` does not return when a
        request has come, since it never sees one."""
        deadline = time.monotonic() + seconds
        self.transport.setblocking(False)
        while not wanted() and not self.ended:
            self.reader = self.reader or self.readAsync(min=1)
            result = next(self.reader)
            if isinstance(result, int):
                left = deadline - time.monotonic()
                if not wanted() and not (left > 0 and select.select([self.transport], [], [], left)[0]):
                    raise TimeoutError("the server did not say what was waited for")
                continue
            self.reader = None
            self.received += result
            self.ended = not result
        if not wanted():
            raise EOFError("the server ended too early")

    def allowed_tickets(self):
        return [ticket for ticket in self.tickets if is_allowed(ticket)]


class ServerConnection(TLSConnection):
    """A server that marks its tickets for clients that offer, and asks them to migrate. It can break each rule."""

    def __init__(self, sock, marks="offered", early=None, with_tickets=None):
        super().__init__(sock)
        self.marks = marks
        self.early = early
        self.with_tickets = with_tickets
        self.offered = False
        self.accepted_psk = False

    def _sendMsg(self, msg, *arguments, **options):
        if isinstance(msg, ServerHello):
            self.accepted_psk = msg.getExtension(ExtensionType.pre_shared_key) is not None
        yield from super()._sendMsg(msg, *arguments, **options)

    def _getMsg(self, *arguments):
        for result in super()._getMsg(*arguments):
            if isinstance(result, ClientHello):
                self.offered = offers_support(result)
            yield result

    def _queue_message(self, msg):
        if isinstance(msg, Finished) and self.early is not None:
            super()._queue_message(MigrateRequest(self.early))
        if isinstance(msg, NewSessionTicket) and (self.marks == "always" or self.marks == "offered" and self.offered):
            msg.extensions = [empty_extension(MIGRATION_ALLOWED)]
        super()._queue_message(msg)

    def _queue_flush(self):
        tickets = self._buffer[:1] == bytes([4])
        if tickets and self.with_tickets is not None:
            super()._queue_message(MigrateRequest(self.with_tickets))
        yield from super()._queue_flush()

    def ask(self, target):
        for _ in self._sendMsg(MigrateRequest(target)):
            pass
