//! Why a conversation does not go on. Each stands inside an `io::Error`, so `error.get_ref()` and a downcast find it.

use std::error::Error;
use std::io;

/// Inside an `io::Error`: why a [`Conversation`](super::Conversation) does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConversationError {
    /// The client has left for another server, which goes on with this request. Nobody is at fault: return the error, and give it to
    /// [`finish`](super::Conversation::finish). The kind is `ConnectionAborted`.
    #[error("the client goes on elsewhere")]
    Departed,
    /// The client came with a state that no conversation has made. The service's nodes are at fault: they serve it by different
    /// applications. The kind is `InvalidData`.
    #[error("the stream's state is not that of a conversation")]
    ForeignState,
    /// What the application does is not what led to the state: it has taken less of an upload than it had taken at the server
    /// where the state was made. The application is at fault. The kind is `InvalidData`.
    #[error("a request was not carried out as it was at another server")]
    Diverged,
    /// Two answers that are recorded were asked for in one request. The application is at fault. The kind is `InvalidInput`.
    #[error("a request has one recorded answer")]
    AnsweredAlready,
    /// The client has ended its side in the middle of a request. The kind is `UnexpectedEof`.
    #[error("the client's stream ends in the middle of a request")]
    CutShort,
    /// What came is no request. The client is at fault. The kind is `InvalidData`.
    #[error("what the client sent is no request")]
    Malformed(#[source] Box<dyn Error + Send + Sync>),
    /// What is sent could not be read. The kind is that of the error inside.
    #[error("what is to be sent could not be read")]
    Source(#[source] io::Error),
    /// What is sent ended too early. The kind is `UnexpectedEof`.
    #[error("what is to be sent ends {missing} bytes too early")]
    SourceEnded {
        /// How many bytes are missing.
        missing: u64,
    },
    /// What was received could not be kept. The kind is that of the error inside.
    #[error("what was received could not be kept")]
    Sink(#[source] io::Error),
}

impl From<ConversationError> for io::Error {
    fn from(error: ConversationError) -> Self {
        let kind = match &error {
            ConversationError::Departed => io::ErrorKind::ConnectionAborted,
            ConversationError::ForeignState
            | ConversationError::Diverged
            | ConversationError::Malformed(_) => io::ErrorKind::InvalidData,
            ConversationError::AnsweredAlready => io::ErrorKind::InvalidInput,
            ConversationError::CutShort | ConversationError::SourceEnded { .. } => {
                io::ErrorKind::UnexpectedEof
            }
            ConversationError::Source(inner) | ConversationError::Sink(inner) => inner.kind(),
        };
        Self::new(kind, error)
    }
}
