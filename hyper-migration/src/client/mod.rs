//! The client's side: a connector for hyper-util's client, and that client with connections that are left when they are to be.

mod connector;
mod info;
mod offers;
mod pooled;
mod stream;

pub use self::connector::{BoxError, HttpsConnector};
pub use self::info::ConnectionInfo;
pub use self::pooled::{Client, ResponseFuture};
pub use self::stream::{HttpsStream, MaybeHttpsStream};
