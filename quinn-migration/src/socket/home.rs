//! Clients that began at an added address: quinn sees them under their own address.
//!
//! Where an answer leaves from is told by two things that quinn hands back unchanged: the local address that a connection
//! or an attempt began with (`Transmit::src_ip`), and, for packets of a connection, whether its client is known to be at
//! home there. An attempt takes no room here: only a session that quinn has made does.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use quinn_proto::ConnectionId;

use super::PathId;
use crate::wire::{LONGEST_CONNECTION_ID, Reader};

/// For an added address whose IP another one has too: in the discard-only prefix (RFC 6666), so no host has it.
const TAG_PREFIX: [u16; 6] = [0x0100, 0, 0, 0, 0x05aa, 0];

#[derive(Debug, Default)]
pub(crate) struct Homes {
    table: RwLock<Table>,
    /// Saves a look at the table in a server that has never had a second address.
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    /// The local address that quinn is told for each added address.
    tags: HashMap<IpAddr, PathId>,
    told: HashMap<PathId, IpAddr>,
    /// How many sessions are at home at an added address.
    residents: HashMap<PathId, usize>,
    /// Removed addresses that sessions are still at home at: nothing leaves from another address in their place.
    gone: HashSet<PathId>,
    /// Sessions by the connection ID that the server chose first, and their home when it is an added address.
    sessions: HashMap<ConnectionId, Option<Home>>,
    /// How many sessions are at home there.
    clients: HashMap<Home, usize>,
    /// How many homes a client address has.
    addresses: HashMap<SocketAddr, usize>,
    /// Live sessions without connection IDs, and their homes.
    unnamed: usize,
    unnamed_homes: HashSet<Home>,
}

type Home = (SocketAddr, PathId);

/// A session, until it is dropped.
#[derive(Debug)]
pub(crate) struct Resident {
    homes: Arc<Homes>,
    id: ConnectionId,
}

impl Homes {
    /// An address is served from now on. `alone`: no other socket receives for its IP.
    pub(super) fn add(&self, path: PathId, ip: IpAddr, alone: bool) {
        self.any.store(true, Ordering::Release);
        let mut table = self.table.write();
        let [a, b, c, d, e, f] = TAG_PREFIX;
        let (high, low) = (path.0 >> 16, path.0 & 0xffff);
        let short = |part: u32| u16::try_from(part).unwrap_or_default();
        let made_up = Ipv6Addr::new(a, b, c, d, e, f, short(high), short(low));
        // Sessions may still be at home at a removed address with this IP.
        let free = alone && !table.tags.contains_key(&ip);
        let tag = if free { ip } else { made_up.into() };
        table.tags.insert(tag, path);
        table.told.insert(path, tag);
    }

    /// An address is served no more.
    pub(super) fn remove(&self, path: PathId) {
        let mut table = self.table.write();
        table.gone.insert(path);
        table.forget(path);
    }

    /// The local address to show quinn for an added address.
    pub(super) fn tag(&self, path: PathId) -> Option<IpAddr> {
        self.table.read().told.get(&path).copied()
    }

    /// The added address that quinn means by a local address.
    pub(super) fn at(&self, local: Option<IpAddr>) -> Option<PathId> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.table.read().tags.get(&local?).copied()
    }

    /// quinn has made a session for an attempt; `id` is the server's first connection ID.
    pub(crate) fn session(self: &Arc<Self>, id: ConnectionId) -> Resident {
        let mut table = self.table.write();
        if id.is_empty() {
            table.unnamed = table.unnamed.saturating_add(1);
        } else {
            table.sessions.insert(id, None);
        }
        Resident {
            homes: Arc::clone(self),
            id,
        }
    }

    /// A handshake packet of the server leaves for a client at an added address.
    pub(super) fn on_handshake(&self, home: Home, packet: &[u8]) {
        let Some(id) = source(packet) else { return };
        let news = {
            let table = self.table.read();
            match table.sessions.get(&id) {
                Some(known) => known.is_none(),
                None => id.is_empty() && !table.unnamed_homes.contains(&home),
            }
        };
        if news {
            self.table.write().settle(id, home);
        }
    }

    /// Whether a connection began there.
    pub(super) fn is_home(&self, home: Home) -> bool {
        let table = self.table.read();
        table.clients.contains_key(&home) || table.unnamed_homes.contains(&home)
    }

    /// Whether a connection of this client began at any added address.
    pub(super) fn is_known(&self, client: SocketAddr) -> bool {
        self.any.load(Ordering::Acquire) && self.table.read().addresses.contains_key(&client)
    }
}

impl Table {
    fn settle(&mut self, id: ConnectionId, home: Home) {
        if id.is_empty() {
            if self.unnamed > 0 && self.unnamed_homes.insert(home) {
                *self.addresses.entry(home.0).or_default() += 1;
                *self.residents.entry(home.1).or_default() += 1;
            }
            return;
        }
        if let Some(free @ None) = self.sessions.get_mut(&id) {
            *free = Some(home);
            *self.clients.entry(home).or_default() += 1;
            *self.addresses.entry(home.0).or_default() += 1;
            *self.residents.entry(home.1).or_default() += 1;
        }
    }

    fn leave(&mut self, id: &ConnectionId) {
        if id.is_empty() {
            self.unnamed = self.unnamed.saturating_sub(1);
            if self.unnamed == 0 {
                for (client, path) in std::mem::take(&mut self.unnamed_homes) {
                    one_less(&mut self.addresses, &client);
                    one_less(&mut self.residents, &path);
                    self.forget(path);
                }
            }
        } else if let Some(Some(home)) = self.sessions.remove(id) {
            one_less(&mut self.clients, &home);
            one_less(&mut self.addresses, &home.0);
            one_less(&mut self.residents, &home.1);
            self.forget(home.1);
        }
    }

    /// Forgets an address that is gone, once nobody is at home there.
    fn forget(&mut self, path: PathId) {
        if self.residents.contains_key(&path) || !self.gone.remove(&path) {
            return;
        }
        if let Some(tag) = self.told.remove(&path)
            && self.tags.get(&tag) == Some(&path)
        {
            self.tags.remove(&tag);
        }
    }
}

fn one_less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.homes.table.write().leave(&self.id);
    }
}

/// Whether this is a packet of a handshake (RFC 9000 section 17.2).
pub(super) fn is_long(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first & 0x80 != 0)
}

/// The source connection ID of a long header.
fn source(packet: &[u8]) -> Option<ConnectionId> {
    const FLAGS_AND_VERSION: usize = 5;
    let mut reader = Reader::new(packet);
    reader.take(FLAGS_AND_VERSION)?;
    let destination = reader.byte()?.into();
    reader.take(destination)?;
    let length: usize = reader.byte()?.into();
    let id = reader.take(length)?;
    (length <= LONGEST_CONNECTION_ID).then(|| ConnectionId::new(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn long(source: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xc0, 0, 0, 0, 1, 3, 7, 7, 7];
        packet.push(u8::try_from(source.len()).unwrap());
        packet.extend_from_slice(source);
        packet
    }

    #[test]
    fn a_client_is_at_home_where_its_session_answered_first_until_the_session_ends() {
        for id in [&[5; 8][..], &[]] {
            let homes = Arc::new(Homes::default());
            let (client, path) = ("192.0.2.9:99".parse().unwrap(), PathId(3));
            homes.add(path, IpAddr::from([192, 0, 2, 1]), true);
            // Retry and refusals come from no session.
            homes.on_handshake((client, path), &long(id));
            assert!(!homes.is_home((client, path)));
            let resident = homes.session(ConnectionId::new(id));
            homes.on_handshake((client, path), &long(id));
            assert!(homes.is_home((client, path)) && homes.is_known(client));
            assert!(!homes.is_home((client, PathId(4))));
            drop(resident);
            assert!(!homes.is_home((client, path)) && !homes.is_known(client));
            let table = homes.table.read();
            assert!(table.sessions.is_empty() && table.addresses.is_empty());
        }
    }

    #[test]
    fn a_removed_address_is_forgotten_when_nobody_is_at_home_there() {
        for id in [&[5; 8][..], &[]] {
            let homes = Arc::new(Homes::default());
            for number in 1..1000 {
                homes.add(PathId(number), IpAddr::from([192, 0, 2, 1]), true);
                homes.remove(PathId(number));
            }
            assert!(homes.table.read().tags.is_empty() && homes.table.read().told.is_empty());
            let (client, path) = ("192.0.2.9:99".parse().unwrap(), PathId(1000));
            homes.add(path, IpAddr::from([192, 0, 2, 1]), true);
            let resident = homes.session(ConnectionId::new(id));
            homes.on_handshake((client, path), &long(id));
            homes.remove(path);
            let tag = homes.tag(path);
            assert_eq!(homes.at(tag), Some(path), "its packets go nowhere");
            drop(resident);
            let table = homes.table.read();
            assert!(table.tags.is_empty() && table.told.is_empty() && table.gone.is_empty());
        }
    }

    #[test]
    fn two_addresses_with_one_ip_are_told_apart() {
        let homes = Homes::default();
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        homes.add(PathId(1), ip, true);
        homes.add(PathId(0x2_0003), ip, false);
        assert_eq!(homes.tag(PathId(1)), Some(ip));
        for path in [PathId(1), PathId(0x2_0003)] {
            assert_eq!(homes.at(homes.tag(path)), Some(path));
        }
        assert_eq!(homes.at(None), None);
    }

    proptest! {
        #[test]
        fn any_packet_is_read_without_a_panic(packet in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = source(&packet);
        }
    }
}
