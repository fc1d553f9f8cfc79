//! Where a redis server is that nodes share: one server, the primary that Sentinels know, or a cluster, with TLS or without.
//!
//! It may have a password in it, so it is never shown.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use migration_token::{RedisNonceStore, RedisNonceStoreBuilder};
use url::Url;

/// The port of a Sentinel that has none in its address.
const SENTINEL_PORT: u16 = 26_379;

/// The address of redis, as told on the command line.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisAddress {
    with_tls: bool,
    place: Place,
}

#[derive(Clone, PartialEq, Eq)]
enum Place {
    /// As the library takes it.
    Server(Url),
    /// A Unix socket, as the library takes it.
    Socket(String),
    /// The primary by its name, and the Sentinels that know where it is.
    Sentinels { primary: Url, sentinels: Vec<Url> },
    /// Some of the nodes.
    Cluster(Vec<Url>),
}

/// What else is said of redis on the command line.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RedisOptions {
    /// Certificates (PEM) of the authorities that a redis server with TLS is trusted by [default: those of the system].
    #[arg(long, value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,

    /// File with the password of the redis server, which others cannot see there; the user is in the address.
    #[arg(long, value_name = "FILE")]
    pub redis_password_file: Option<PathBuf>,
}

impl RedisAddress {
    /// The store there. Nothing is asked of it yet.
    ///
    /// # Errors
    ///
    /// A file that is named cannot be read.
    pub fn store(&self, options: &RedisOptions) -> io::Result<RedisNonceStoreBuilder> {
        let password = options.redis_password_file.as_ref();
        let password = password.map(std::fs::read_to_string).transpose()?;
        let password = password.as_deref().map(str::trim_end);
        let address = |url: &Url| {
            let mut url = url.clone();
            if password.is_some() {
                // What has a host has room for a password.
                let _ = url.set_password(password);
            }
            url.to_string()
        };
        let mut builder = match &self.place {
            Place::Server(url) => RedisNonceStore::builder(&address(url)),
            Place::Socket(socket) => RedisNonceStore::builder(socket),
            Place::Sentinels { primary, sentinels } => {
                RedisNonceStore::builder(&address(primary)).sentinels(sentinels)
            }
            Place::Cluster(nodes) => {
                let mut nodes = nodes.iter().map(address);
                let first = nodes.next().unwrap_or_default();
                RedisNonceStore::builder(&first).cluster(nodes)
            }
        };
        if self.with_tls {
            // Unless there is one already, which does as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
            if let Some(file) = &options.redis_ca {
                builder = builder.authority(&std::fs::read(file)?);
            }
        }
        Ok(builder)
    }
}

impl FromStr for RedisAddress {
    type Err = NoRedis;

    fn from_str(text: &str) -> Result<Self, NoRedis> {
        let (scheme, rest) = text.split_once("://").ok_or(NoRedis)?;
        let (transport, kind) = match scheme.split_once('+') {
            Some((transport, kind)) => (transport, Some(kind)),
            None => (scheme, None),
        };
        let with_tls = transport == "rediss";
        let place = match (transport, kind) {
            ("unix", None) => Place::Socket(text.to_owned()),
            ("redis" | "rediss", None) => Place::Server(url(transport, "", rest)?),
            ("redis" | "rediss", Some("sentinel")) => sentinels(transport, rest)?,
            ("redis" | "rediss", Some("cluster")) => cluster(transport, rest)?,
            _ => return Err(NoRedis),
        };
        Ok(Self { with_tls, place })
    }
}

/// `[USER:PASSWORD@]HOST[:PORT][,...]/PRIMARY[/DB]`: user, password and database are the primary's.
fn sentinels(transport: &str, rest: &str) -> Result<Place, NoRedis> {
    let (authority, path) = rest.split_once('/').ok_or(NoRedis)?;
    let (user, hosts) = split_user(authority);
    let mut sentinels = Vec::new();
    for host in hosts.split(',') {
        let mut sentinel = url(transport, "", host)?;
        if sentinel.port().is_none() {
            sentinel
                .set_port(Some(SENTINEL_PORT))
                .map_err(|()| NoRedis)?;
        }
        sentinels.push(sentinel);
    }
    let primary = url(transport, user, path)?;
    Ok(Place::Sentinels { primary, sentinels })
}

/// `[USER:PASSWORD@]HOST[:PORT][,...]`: user and password are those of every node.
fn cluster(transport: &str, rest: &str) -> Result<Place, NoRedis> {
    let (user, hosts) = split_user(rest);
    let hosts = hosts.split(',').map(|host| url(transport, user, host));
    Ok(Place::Cluster(hosts.collect::<Result<_, _>>()?))
}

/// What stands up to the last @, with it, and the rest.
fn split_user(authority: &str) -> (&str, &str) {
    let at = authority.rfind('@').map_or(0, |at| at + 1);
    authority.split_at(at)
}

fn url(transport: &str, user: &str, rest: &str) -> Result<Url, NoRedis> {
    let url = Url::parse(&format!("{transport}://{user}{rest}")).map_err(|_| NoRedis)?;
    let has_host = url.host_str().is_some_and(|host| !host.is_empty());
    has_host.then_some(url).ok_or(NoRedis)
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisAddress(..)")
    }
}

/// A text is no address of redis.
#[derive(Debug, thiserror::Error)]
#[error("not the address of a redis server")]
pub struct NoRedis;

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Option<Place> {
        text.parse::<RedisAddress>().ok().map(|parsed| parsed.place)
    }

    fn urls(texts: &[&str]) -> Vec<Url> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn sentinels_are_asked_for_a_primary_whose_user_is_in_the_address() {
        let Some(Place::Sentinels { primary, sentinels }) =
            place("redis+sentinel://me:pass%40word@10.0.0.1:1,s2,[::1]/mymaster/3")
        else {
            panic!("an address of Sentinels");
        };
        assert_eq!(primary.as_str(), "redis://me:pass%40word@mymaster/3");
        let expected = [
            "redis://10.0.0.1:1",
            "redis://s2:26379",
            "redis://[::1]:26379",
        ];
        assert_eq!(sentinels, urls(&expected));
        let Some(Place::Sentinels { primary, sentinels }) = place("rediss+sentinel://s/p") else {
            panic!("an address of Sentinels with TLS");
        };
        assert_eq!(
            (primary.scheme(), sentinels[0].scheme()),
            ("rediss", "rediss")
        );
    }

    #[test]
    fn each_node_of_a_cluster_has_the_user() {
        let nodes = place("rediss+cluster://:word@a:1,b,c:3");
        let expected = [
            "rediss://:word@a:1",
            "rediss://:word@b",
            "rediss://:word@c:3",
        ];
        assert!(nodes == Some(Place::Cluster(urls(&expected))));
    }

    #[test]
    fn what_names_no_server_is_refused() {
        for text in [
            "redis:a",
            "redis://",
            "redis+sentinel://host",
            "redis+sentinel:///primary",
            "redis+sentinel://host/",
            "redis+cluster://",
            "redis+cluster://a,,b",
            "unix+cluster://a",
            "redis+other://a",
            "http://a",
        ] {
            assert!(place(text).is_none(), "{text}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        for text in [
            "redis://:secret@a",
            "redis+sentinel://:secret@a/p",
            "redis+cluster://:secret@a",
        ] {
            let parsed = text.parse::<RedisAddress>().unwrap();
            assert!(!format!("{parsed:?}").contains("secret"));
        }
    }

    #[test]
    fn a_password_in_a_file_is_taken_as_it_is_but_for_the_end_of_its_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a/b@c\n").unwrap();
        let options = RedisOptions {
            redis_password_file: Some(file.path().to_owned()),
            ..RedisOptions::default()
        };
        let address: RedisAddress = "redis://me@127.0.0.1".parse().unwrap();
        let store = address.store(&options).unwrap();
        // The library takes it, and shows none of it.
        assert!(!format!("{:?}", store.build().unwrap()).contains("a/b"));
    }
}
